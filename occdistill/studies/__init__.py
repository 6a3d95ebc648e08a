"""The paper's figures and ablations as commands, on problems small enough to see through."""

from __future__ import annotations

import importlib
from typing import Any

from occdistill.studies.result import Result

STUDIES = {
    "fields": "gradient field and its variance against N (Fig. 4)",
    "loss_distributions": "scatter of the loss, MFD and Diff-Instruct's weights (Fig. 2)",
    "jacobian": "full Jacobian against identity gradient (Fig. 3)",
    "ode_step": "step size of the integrations (Table 2)",
    "price": "what a student update costs, and what second-order steps and adapters save",
    "mean_flow_distance": "the distance while a student is trained (Fig. 7)",
    "collapse": "no auxiliary (App. C.4)",
    "coverage": "precision, recall, density and coverage on digits (App. D.1)",
    "guidance": "where students rest under a guided teacher",
    "junction": "fans of plans at one place, and the occupancy that follows from each",
    "plans": "Table 1 on plans of the ego car: every method where the future is open",
}


def run_study(name: str, quick: bool = False, seed: int = 0, **options: Any) -> Result:
    """Run one of `STUDIES`; `quick` shrinks it to seconds, for tests: its numbers mean nothing.

    Args:
        name: of the study.
        quick: see above.
        seed: of everything that is drawn.
        **options: further arguments of the study, such as `real` of `plans`.
    """
    return importlib.import_module(f"occdistill.studies.{name}").study(quick, seed, **options)

"""Qualitative forecasts (MFD, Fig. 5): one clip, the truth, the teacher and every finished row."""

from __future__ import annotations

from pathlib import Path

from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.errors import UserError
from occdistill.seeds import torch_generator
from occdistill.studies.table1.plan import Plan
from occdistill.studies.table1.runs import finished_runs
from occdistill.visualization import panels


def draw(
    plan: Plan,
    clip: int,
    path: str | Path,
    budget: str = "updates",
    style: str = "3d",
    size: tuple[int, int] = (320, 240),
    device: str = "cpu",
) -> list[str]:
    """Draw a validation clip as forecast by the first finished seed of each row.

    Args:
        plan: the table.
        clip: number in the validation split.
        path: a .png or .gif file.
        budget: which table's students.
        style: `3d` or `bev`.
        size: of a panel, pixels.
        device: where the networks run.

    Returns:
        What was drawn, in order. All forecasts start from the same noise.

    Raises:
        UserError: no such clip, or no finished run.
    """
    config = load_config(plan.base, plan.run_options(plan.reference, plan.updates))
    dataset = build_dataset(config, "val")
    if not 0 <= clip < len(dataset):
        raise UserError(f"no clip {clip}; the split has clips 0 to {len(dataset) - 1}")
    runs = {key: list(finished_runs(plan, budget, key).values()) for key in plan.rows}
    if not any(runs.values()):
        raise UserError(f"no run of {plan.work_dir}/{budget} is finished: train the table first")
    models = Models(config)
    teachers = [entry.forecaster for entry in lineup(models, None, (10, 1), device=device)]
    forecasters = {f"teacher, {t.nfe} step{'s' * (t.nfe > 1)}": t for t in teachers}
    for key, found in runs.items():
        if found:
            weights = found[0][0] / "student.pth"
            forecasters[plan.rows[key].title] = models.forecaster(weights, device=device)
    item = dataset[clip]
    past, poses, steps = (item[name][None] for name in ("past", "poses", "trajectory"))
    rows = {"truth": item["future"].numpy()}
    for name, forecaster in forecasters.items():
        generator = torch_generator(0)
        future = forecaster(past, poses, trajectory=steps, generator=generator)
        rows[name] = future[0].cpu().numpy()
    panels.save(path, item["past"].numpy(), rows, dataset.grid, size, style)
    return list(rows)

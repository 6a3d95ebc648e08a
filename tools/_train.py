"""The command line that all training tools share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from occdistill.build.config import load_config
from occdistill.training.distill import use_method
from occdistill.training.train import Trained, train


def main(
    description: str,
    part: str,
    method: type | None = None,
    report: Callable[[Config, Trained], str] | None = None,
) -> None:
    """Parse, train to the end, and say where the weights are.

    Args:
        description: of the tool; its first line is shown.
        part: what is trained.
        method: the distillation method, whatever the config says.
        report: what else there is to say.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add = parser.add_argument
    add("config", help="a file in configs/")
    add("--work-dir", type=Path, help="default: a folder for this job in the config's work_dir")
    add("--resume", action="store_true", help="go on from the newest checkpoint in the work dir")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--launcher", choices=("none", "pytorch"), default="none", help="pytorch under torchrun")
    add("--seed", type=int, help="of weights, order and noise; default: the config's")
    options = vars(parser.parse_args())
    config = load_config(options.pop("config"), options.pop("cfg_options"))
    if method is not None:
        use_method(config, method)
    trained = train(config, part, **options)
    if trained is not None:
        print(trained.note)
        if report is not None:
            print(report(config, trained))

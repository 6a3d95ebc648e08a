"""The command line that all training tools share."""

from collections.abc import Callable
from pathlib import Path

import _options as common
from mmengine.config import Config

from occdistill.training.distill import load_with_method, overview
from occdistill.training.train import Trained, train


def main(
    description: str,
    part: str,
    method: str | None = None,
    report: Callable[[Config, Trained], str] | None = None,
) -> None:
    """Parse, train to the end, and say where the weights are.

    Args:
        description: of the tool; its first line is shown.
        part: what is trained.
        method: name of the distillation method, whatever the config says.
        report: what else there is to say.
    """
    parser = common.parser(description)
    add = parser.add_argument
    common.add_config(add)
    common.add_device(add, launcher=True)
    add("--work-dir", type=Path, help="default: a folder for this job in the config's work_dir")
    add("--resume", action="store_true", help="go on from the newest checkpoint in the work dir")
    add("--seed", type=int, help="of weights, order and noise; default: the config's")
    if part == "distill" and method is None:
        add("--method", metavar="NAME", help="instead of the config's")
        add("--list-methods", action="version", version=overview(), help="their needs and costs")
    args = parser.parse_args()
    method = getattr(args, "method", method)
    config = load_with_method(args.config, method, args.cfg_options)
    trained = train(
        config, part, work_dir=args.work_dir, resume=args.resume, device=args.device,
        seed=args.seed, launcher=args.launcher, asked=args.cfg_options,
    )  # fmt: skip
    if trained is not None:
        print(trained.note)
        if report is not None:
            print(report(config, trained))

"""Distil the config's teacher into a one-step student by Mean Flow Distillation.

    python tools/train_mfd.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]

As `train_distill.py`, with MFD whatever method the config names.
"""

from occdistill.distill.mfd import MFD
from occdistill.errors import run
from occdistill.training.jobs import parse, train_distill


def main() -> None:
    """Train to the end."""
    train_distill(parse(__doc__.splitlines()[0]), method=MFD)


if __name__ == "__main__":
    run(main)

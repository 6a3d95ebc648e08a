"""Distil the config's teacher into a one-step student, with the config's method.

python tools/train_distill.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from occdistill.errors import run
from occdistill.training.jobs import parse, train_distill


def main() -> None:
    """Train to the end."""
    train_distill(parse(__doc__.splitlines()[0]))


if __name__ == "__main__":
    run(main)

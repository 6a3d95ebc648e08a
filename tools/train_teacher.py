"""Train the teacher: a velocity field on the frozen VAE's latents.

python tools/train_teacher.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from occdistill.errors import run
from occdistill.training.jobs import parse, train_teacher


def main() -> None:
    """Train to the end."""
    train_teacher(parse(__doc__.splitlines()[0]))


if __name__ == "__main__":
    run(main)

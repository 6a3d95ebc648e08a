"""Distil a light decoder and encoder from the config's frozen VAE, and say what they cost.

python tools/train_light.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from occdistill.errors import run
from occdistill.training.jobs import parse
from occdistill.training.light import train_light


def main() -> None:
    """Train to the end."""
    train_light(parse(__doc__.splitlines()[0]))


if __name__ == "__main__":
    run(main)

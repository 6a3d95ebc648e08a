"""Distil a light decoder and encoder from the config's frozen VAE, and say what they cost.

python tools/train_light.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.build.models import Models
from occdistill.errors import run
from occdistill.training.light import operations, statement


def report(config, trained) -> str:
    """What the light parts save and cost."""
    models = Models(config, fresh=("vae", "light"))
    return statement(operations(models.vae, models.light), trained.metrics)


if __name__ == "__main__":
    run(lambda: main(__doc__, "light", report=report))

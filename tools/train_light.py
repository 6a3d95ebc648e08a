"""Distil a light decoder and encoder from the config's frozen VAE, and say what they cost.

python tools/train_light.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.build.builders import build_light, build_vae
from occdistill.errors import run
from occdistill.training.light import operations, statement


def report(config, trained) -> str:
    """What the light parts save and cost."""
    vae = build_vae(config, weights=False)
    work = operations(vae, build_light(config, vae, weights=False))
    return statement(work, trained.metrics)


if __name__ == "__main__":
    run(lambda: main(__doc__, "light", report=report))

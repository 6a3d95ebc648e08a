"""Train the VAE that turns voxels into latents, and fit its latent scale.

python tools/train_vae.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from occdistill.errors import run
from occdistill.training.jobs import parse, train_vae


def main() -> None:
    """Train to the end."""
    train_vae(parse(__doc__.splitlines()[0]))


if __name__ == "__main__":
    run(main)

"""Train the encoder that takes LiDAR voxels straight to the frozen VAE's latents.

python tools/train_lidar_encoder.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from occdistill.errors import run
from occdistill.training.jobs import parse
from occdistill.training.lidar import train_lidar_encoder


def main() -> None:
    """Train to the end."""
    train_lidar_encoder(parse(__doc__.splitlines()[0]))


if __name__ == "__main__":
    run(main)

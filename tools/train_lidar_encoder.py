"""Train the encoder that takes LiDAR voxels straight to the frozen VAE's latents.

python tools/train_lidar_encoder.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "lidar_encoder"))

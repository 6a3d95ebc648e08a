"""Train the VAE that turns voxels into latents, and fit its latent scale.

python tools/train_vae.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "vae"))

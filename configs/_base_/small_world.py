"""The small model family: half-resolution voxels of the middle 38.4 m, 24×24 latents."""

from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

# 48 × 48 × 8 voxels of 0.8 m
data = dict(past=4, future=6, crop=19.2, coarsen=2, train_split="train", val_split="val")
vae = dict(
    type=VAE, grid_shape=(48, 48, 8), channels=8, width=(64,), blocks=(2,), decoder_width=64,
)  # fmt: skip
# every future frame sees all past frames, warped into its place: four samples of what stands still,
# and the tracks of what moves; in the newest one objects have moved on at constant velocity
conditioning = dict(kind="gt", align=(0, 1, 2, 3), carry=True)
network = dict(
    type=SpaceTimeUNet, latent_shape=(8, 24, 24), past=4, future=6, align=4, trajectory=10,
    width=48, blocks=(1, 1, 2),
)  # fmt: skip
# what --network light uses: half the channels, a quarter of the operations
light_network = dict(
    type=SpaceTimeUNet, latent_shape=(8, 24, 24), past=4, future=6, align=4, trajectory=10,
    width=24, blocks=(1, 1, 2),
)  # fmt: skip
guidance = 2.0
# chosen on data/world-train: details that nothing determines are better left at their average
sampler = dict(steps=10, shift=3.0, temperature=0.7)

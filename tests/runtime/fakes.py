"""Tiny codecs and fields with known answers, for everything that runs a `Forecaster`."""

import numpy as np
import torch
from torch import nn

from occdistill.autoencoder.vae import Gaussian
from occdistill.data.occ3d import FREE, Grid
from occdistill.latents.codec import Codec

GRID = Grid((8, 8, 2), 1.0, (-4.0, -4.0, 0.0))


class ClassesAsLatents(nn.Module):
    """Latents are the voxels' class numbers, so a latent can be read by eye; counts its work."""

    scale = 0.5
    grid_shape, latent_shape = GRID.shape, (2, 8, 8)

    def __init__(self):
        super().__init__()
        self.encoded = self.decoded = 0

    def encode(self, voxels):
        self.encoded += len(voxels)
        mean = voxels.float().permute(0, 3, 1, 2).contiguous()
        return Gaussian(mean, torch.zeros_like(mean))

    def decode(self, z):
        self.decoded += len(z)
        return z.permute(0, 2, 3, 1).round().clamp(0, FREE).to(torch.uint8)


class ToNewest(nn.Module):
    """The velocity that reaches the newest past latents at t = 1, from anywhere; counts its work.

    One Euler step of it is exact, and so are ten.
    """

    def __init__(self):
        super().__init__()
        self.evaluations = []

    def forward(self, x_t, t, condition):
        self.evaluations.append(len(x_t))
        target = condition.past[:, -1:].expand_as(x_t)
        return (target - x_t) / (1 - t)[:, None, None, None, None]


def codec(**options):
    return Codec(ClassesAsLatents(), GRID, **{"future": 2, "conditioning": "hist", **options})


def drive(frames, speed=1.0):
    """Ego poses of a car that drives straight on, `(frames, 4, 4)`."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = speed * np.arange(frames)
    return poses


def street(frames, seed=0):
    """Random voxels, uint8 `(frames, X, Y, Z)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, FREE + 1, (frames, *GRID.shape), generator=generator).to(torch.uint8)

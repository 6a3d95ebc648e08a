from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occdistill.data.occ3d import Grid

GRID = Grid((16, 16, 4), 1.6, (-12.8, -12.8, -1.0))


def street(rng, frames, shape=GRID.shape):
    """Ground below, a wall on one side, a box that moves a voxel per frame, clutter."""
    voxels = np.full((frames, *shape), 17, np.uint8)
    voxels[..., 0] = 11
    voxels[:, :, :2, :3] = 15
    for i in range(frames):
        x = (i + int(rng.integers(0, 4))) % (shape[0] - 2)
        voxels[i, x : x + 2, 8:10, 1:3] = 4
    noise = rng.random(voxels.shape) < 0.03
    voxels[noise] = rng.integers(0, 18, int(noise.sum()))
    return voxels


def moved(x):
    """A pose x metres ahead."""
    pose = np.eye(4, dtype=np.float32)
    pose[0, 3] = x
    return pose


class Clips:
    """What evaluation uses of a ClipDataset, in memory."""

    def __init__(self, lengths, past=4, future=6, seed=0, masks=True):
        rng = np.random.default_rng(seed)
        self.past, self.future, self.masks, self.grid = past, future, masks, GRID
        self.fingerprint = "f" * 64
        self.bad_frames = {"keyframes": 0, "clips_left_out": 0}
        self.reader = SimpleNamespace(past_from="occ3d")
        self.scenes = [
            SimpleNamespace(
                name=f"scene-{s:04}",
                keyframes=[
                    SimpleNamespace(token=f"{s}-{k}", ego_to_global=moved(1.6 * k))
                    for k in range(n)
                ],
            )
            for s, n in enumerate(lengths)
        ]
        self.voxels = [torch.from_numpy(street(rng, n)) for n in lengths]
        self.seen = [
            torch.from_numpy(rng.integers(0, 2, (2, n, *GRID.shape), np.uint8)) for n in lengths
        ]
        self.clips = [(s, i) for s, n in enumerate(lengths) for i in range(n - past - future + 1)]

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, i):
        scene, start = self.clips[i]
        now, end = start + self.past, start + self.past + self.future
        poses = [moved(1.6 * k) for k in range(-self.past + 1, self.future + 1)]
        item = {
            "past": self.voxels[scene][start:now],
            "future": self.voxels[scene][now:end],
            "poses": torch.from_numpy(np.stack(poses)),
            "trajectory": torch.zeros(self.past + self.future, 2),
            "index": i,
        }
        if self.masks:
            item["mask_lidar"], item["mask_camera"] = self.seen[scene][:, now:end]
        return item

    def rows(self, i):
        scene, start = self.clips[i]
        first = sum(len(s.keyframes) for s in self.scenes[:scene]) + start
        now = first + self.past
        return slice(first, now), slice(now, now + self.future)

    def clip_id(self, i):
        scene, start = self.clips[i]
        scene = self.scenes[scene]
        return f"{scene.name}/{scene.keyframes[start + self.past - 1].token}"


@pytest.fixture
def clips():
    return Clips([14, 12, 16])


@pytest.fixture(scope="session")
def make_clips():
    return Clips


@pytest.fixture(scope="session")
def make_street():
    return street

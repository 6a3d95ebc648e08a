"""Rows of forecasts from LiDAR, on the small world."""

import pytest
import torch
from torch.utils.data import default_collate

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import GridTransform
from occdistill.evaluation.lidar import from_labels_row, lidar_ceiling_row
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.latents.codec import Codec
from tests.runtime.fakes import ClassesAsLatents


@pytest.fixture(scope="module")
def datasets(tiny_world):
    return [
        ClipDataset(
            tiny_world,
            "v1.0-synthetic",
            "train",
            2,
            3,
            transform=GridTransform(12.8, 4),
            past_from=s,
        )
        for s in ("lidar", "occ3d")
    ]


def batch_of(dataset, *indices):
    return ClipBatch.of(default_collate([dataset[i] for i in indices]), "cpu", seed=0)


def test_from_labels_shows_the_labels_of_the_same_frames(datasets):
    lidar, labels = datasets
    shown = []

    def draw(batch, sample=0):
        shown.append(batch.shared.setdefault("condition", batch.past))
        return batch.past

    row = Row("student", draw, nfe=1, draw=draw)
    other = from_labels_row(row, lidar)
    assert other.name == "student, from labels@1" and other.forecaster is None
    batch = batch_of(lidar, 1, 9)
    for _ in range(2):  # what the two rows share is their own
        assert torch.equal(row.predict(batch), batch.past)
        assert torch.equal(other.predict(batch), batch_of(labels, 1, 9).past)
    assert shown[0] is shown[2] and shown[1] is shown[3]


def test_the_lidar_ceiling_is_made_of_the_future_frames(datasets):
    lidar, _ = datasets
    batch = batch_of(lidar, 2, 10)
    as_it_is = lidar_ceiling_row(None, lidar).predict(batch)
    # the newest past frame of a clip that starts later by as many keyframes as there are past
    scene, start = lidar.clips[2]
    later = lidar.reader.past(lidar.scenes[scene], start + 2, start + 5)
    assert torch.equal(as_it_is[0], torch.from_numpy(later))
    assert not torch.equal(as_it_is, batch.future)
    codec = Codec(ClassesAsLatents(), lidar.grid, future=3)  # latents are the voxels themselves
    row = lidar_ceiling_row(codec, lidar, vae="mark")
    assert torch.equal(row.predict(batch), as_it_is)
    assert row.conditioning == "truth" and row.facts == {"vae": "mark"}

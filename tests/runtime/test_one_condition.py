"""What a model is trained on, scored on and shown live is the same, number for number."""

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from occdistill.autoencoder.vae import Gaussian
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import GridTransform
from occdistill.latents.cache import LatentClips
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.sources import replay
from occdistill.runtime.stream import RollingForecaster
from tests.runtime.fakes import ToNewest

PAST, FUTURE = 3, 2


class ExactVAE(nn.Module):
    """Latents are class numbers, halved: the same in float16, alone and in a batch."""

    scale = 0.5

    def __init__(self, grid_shape):
        super().__init__()
        x, y, z = self.grid_shape = grid_shape
        self.latent_shape = (z, x, y)
        self.anywhere = nn.Parameter(torch.zeros(()))  # says on which device

    def encode(self, voxels):
        mean = voxels.float().permute(0, 3, 1, 2)
        return Gaussian(mean, torch.zeros_like(mean))


@pytest.fixture(scope="module")
def clips(tiny_world):
    shape = dict(past=PAST, future=FUTURE, transform=GridTransform(crop=25.6, coarsen=2))
    return ClipDataset(tiny_world, "v1.0-synthetic", "val", **shape)


def streamed(forecaster, clips):
    """By newest keyframe, the conditions of a live run through the only scene."""
    (scene,) = clips.scenes
    rolling, found = RollingForecaster(forecaster, PAST), {}
    for i, packet in enumerate(replay(clips.reader, [scene], forecaster.codec.plan)):
        rolling.push(packet.voxels(), packet.ego_to_global, packet.time, packet.lidar_to_ego)
        if rolling.ready:
            found[i] = rolling.condition(packet.plan)
    return found


@pytest.mark.parametrize(
    "known", [{}, {"align": (0, 2)}, {"align": (1, 0), "carry": True}], ids=str
)
@pytest.mark.parametrize("kind", ["gt", "hist", "hist+1"])
def test_cached_scored_and_streamed_conditions_are_equal(clips, tmp_path, kind, known):
    codec = Codec(ExactVAE(clips.grid.shape), clips.grid, FUTURE, conditioning=kind, **known)
    forecaster = Forecaster(codec, ToNewest())
    cached = LatentClips(clips, codec, "vae", tmp_path)
    live = streamed(forecaster, clips)
    assert len(clips) == 8
    for number, (_, start) in enumerate(clips.clips):
        items, clip = default_collate([cached[number]]), default_collate([clips[number]])
        scored = forecaster.condition(clip["past"], clip["poses"], clip["trajectory"])
        for other in (Condition.of(items), live[start + PAST - 1]):
            assert torch.equal(other.past, scored.past)
            assert torch.equal(other.trajectory, scored.trajectory)
            if known:
                assert torch.equal(other.aligned, scored.aligned)
            else:
                assert other.aligned is None and scored.aligned is None


def test_carried_objects_show_in_these_clips(clips):
    """So the test above compares something."""
    seen = [
        Codec(ExactVAE(clips.grid.shape), clips.grid, FUTURE, align=(0,), carry=carry)
        for carry in (False, True)
    ]
    clip = default_collate([clips[i] for i in range(len(clips))])
    still, carried = (codec.aligned_voxels(clip["past"], clip["poses"]) for codec in seen)
    assert (still != carried).any()


def test_a_step_that_nobody_told_is_refused_when_scored_too(clips):
    codec = Codec(ExactVAE(clips.grid.shape), clips.grid, FUTURE, conditioning="hist+1")
    clip = default_collate([clips[0]])
    with pytest.raises(ValueError, match="shows 3 steps .* 2 are given"):
        codec.condition(clip["past"], clip["poses"], clip["trajectory"][:, : PAST - 1])

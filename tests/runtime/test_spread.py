import math

import pytest
import torch

from occdistill.data.occ3d import FREE
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.spread import spread
from tests.runtime.fakes import ToNewest, codec, drive, street


def test_four_known_samples_have_known_probabilities():
    # columns: voxels; rows: samples
    samples = torch.tensor(
        [[FREE, 4, 4, 11], [FREE, 4, FREE, 4], [FREE, 4, FREE, FREE], [FREE, 4, 4, 2]]
    )
    occupancy, entropy = spread(samples.to(torch.uint8).view(1, 4, 1, 1, 1, 4))
    assert occupancy.shape == entropy.shape == (1, 1, 1, 1, 4)
    assert occupancy.flatten().tolist() == [0, 1, 0.5, 0.75]
    expected = [0, 0, math.log(2), math.log(4)]  # log k where all samples differ
    assert entropy.flatten().tolist() == pytest.approx(expected)


def test_clips_keep_their_own_samples():
    futures = torch.full((2, 3, 2, 1, 1, 1), FREE, dtype=torch.uint8)
    futures[1, 0] = 4
    occupancy, _ = spread(futures)
    assert occupancy.flatten().tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("samples", [1, 3])
def test_a_forecaster_that_has_no_doubt_says_so(samples):
    past, poses = street(3)[None], torch.from_numpy(drive(5, speed=0.0)).float()[None]
    forecaster = Forecaster(codec(), ToNewest())
    occupancy, entropy = forecaster.spread(past, poses, samples=samples)
    assert torch.equal(occupancy[0, 1], (past[0, -1] != FREE).float())
    assert not entropy.any()

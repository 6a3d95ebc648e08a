"""The spread of a student's samples, counted by hand."""

from types import SimpleNamespace

import pytest
import torch

from occdistill.data.occ3d import FREE
from occdistill.latents.condition import Condition
from occdistill.training.validation import SampleSpread


def test_it_is_the_share_of_filled_voxels_that_differ(monkeypatch):
    futures = {
        0.0: [[[3, 3, FREE, FREE]], [[3, 4, 5, FREE]]],  # of three filled voxels two differ
        1.0: [[[3, 3, FREE, FREE]], [[3, 3, FREE, FREE]]],
    }
    asked = []

    class Fake:
        def __init__(self, codec, field, **options):
            self.field = field
            asked.append(options)

        def futures(self, condition, samples, generator):
            assert len(condition.past) == 4 and samples == 2
            return torch.tensor([futures[self.field]])

    monkeypatch.setattr("occdistill.training.validation.Forecaster", Fake)
    batches = [(Condition(torch.zeros(8, 1, 1, 1, 1)), None)]
    score = SimpleNamespace(batches=batches, device="cpu", codec=None, sampler={"nfe": 1})
    measure = SampleSpread(score, 0.0, {"nfe": 10})
    for _ in range(2):
        found = measure(1.0)
        assert found["teacher_spread"] == pytest.approx(200 / 3) and found["spread"] == 0
    assert [options["nfe"] for options in asked] == [1, 10, 1]  # the teacher's once

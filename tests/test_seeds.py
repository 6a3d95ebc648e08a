"""No two places of a run may draw the same numbers."""

import itertools

import pytest
import torch

from occdistill import seeds
from occdistill.errors import UserError
from occdistill.evaluation.rows import ClipBatch
from occdistill.studies import toy
from occdistill.world import simulate


def evaluation_noise(index, sample=0, seed=0, size=4):
    nothing = torch.empty(len(index), 1)
    batch = ClipBatch(nothing, nothing, nothing, nothing, torch.tensor(index), seed=seed)
    return batch.noise((size,), sample)


def test_evaluation_noise_is_its_own_for_every_clip_and_sample():
    """5,000 clips of 16 samples; torch's own seeding would give two of them the same noise."""
    clips = list(range(5000))
    noise = torch.cat([evaluation_noise(clips, sample, size=2) for sample in range(16)])
    assert len(torch.unique(noise, dim=0)) == 5000 * 16
    for size in (5, 6):  # averages scatter as those of independent numbers do
        means = torch.stack(
            [evaluation_noise(clips[:320], s, size=size).mean(0) for s in range(99)]
        )
        assert means.std().item() == pytest.approx(320**-0.5, rel=0.15)


def test_evaluation_noise_depends_on_the_whole_seed_and_not_on_the_batch():
    one, other, huge = (evaluation_noise([3], seed=s) for s in (0, 1 << 16, 1 << 32))
    assert not torch.equal(one, other) and not torch.equal(one, huge)
    assert not torch.equal(evaluation_noise([3], 1, seed=0), other)  # sample 1 is not seed 65,536
    assert torch.equal(evaluation_noise([1, 3])[1:], one)


def test_keys_of_any_length_and_size_have_streams_of_their_own():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (1 << 32,), (0, 1), (1 << 64, 2), (12,), (1, 2)][1:]
    drawn = {float(seeds.normal(seeds.stream(*key), 1)) for key in keys}
    assert len(drawn) == len(keys)
    assert len({seeds.number(*key) for key in keys}) == len(keys)
    again = seeds.uniform(seeds.stream(5, 6), 3)
    assert torch.equal(again, seeds.uniform(seeds.stream(5, 6), 3))
    assert again.dtype == torch.float32 and 0 <= again.min() and again.max() < 1
    with pytest.raises(UserError, match="from 0 on, not -1"):
        seeds.stream(3, -1)


def test_draws_are_standard_normal_and_uniform():
    many = seeds.normal(seeds.stream(1), 200_000)
    assert many.mean().item() == pytest.approx(0, abs=0.01)
    assert many.var().item() == pytest.approx(1, abs=0.01)
    assert seeds.uniform(seeds.stream(1), 200_000).mean().item() == pytest.approx(0.5, abs=0.005)


def test_live_loops_studies_and_worlds_share_no_stream():
    def first(generator):
        return float(torch.randn(1, generator=generator))

    live = [first(seeds.torch_generator(s)) for s in (*range(2000), 1 << 32, (1 << 32) + 1)]
    assert len(set(live)) == len(live)
    uses = (toy.TRAINING, toy.TEACHER, toy.TEACHER_SAMPLES, toy.STUDENT_SAMPLES, toy.LOSSES)
    studies = [first(seeds.torch_generator(s, use)) for s in range(200) for use in uses]
    studies += [
        first(seeds.torch_generator(s, toy.FIELD, n)) for s in range(50) for n in range(1, 9)
    ]
    assert len(set(studies)) == len(studies)
    places = itertools.product((0, 1, 7, 1 << 32), range(2), range(100), (0, 1, 1000, 1001))
    worlds = [simulate.scene_generator(*place).random() for place in places]
    assert len(set(worlds)) == len(worlds)

"""Samples that change places so that nobody waits: the same ones, each once."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.flow.path import Draws
from occdistill.latents.condition import Condition
from occdistill.training.batches import EndlessBatches
from occdistill.training.exchange import Exchange
from tests.training.curves import curve, points

spec = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


@pytest.mark.parametrize("kind, per_step", [(MFD, 3), (NoAuxiliary, 2)])
def test_work_is_what_the_loss_will_do(kind, per_step):
    """A guided teacher is two evaluations, the auxiliary one, and the student one in all."""
    method = kind(toy.Field(), latent_shape=(2, 1, 2, 2), guidance=2.0, ode_step=0.1)
    steps = []
    for key in range(8):
        steps += method.work("student", Draws([key])).tolist()
        condition = Condition(torch.zeros(1, 1, 1, 2, 2), None, torch.zeros(1, 1, 2))
        before = method.evaluations
        method.losses("student", toy.latent_batch(_items(condition), Draws([key])), 0)
        assert method.evaluations - before == 1 + per_step * steps[-1]
    assert len(set(steps)) > 3
    if kind is MFD:
        assert method.work("auxiliary", Draws([0])) is None


def _items(condition):
    future = torch.zeros(1, 2, 1, 2, 2)
    return {"past": condition.past, "trajectory": condition.trajectory, "future": future}


def places(steps, ranks, batch_size=8, windows=3, **options):
    """What the student's batches of some windows are made of, `{number: places}`."""
    task = toy.mfd()
    exchange = Exchange(task, steps, 5, batch_size, ranks)
    length = len(task.plan(0))
    numbers = range(length - 1, length * steps * windows, length)
    return task, exchange, {number: exchange(number) for number in numbers}


@pytest.mark.parametrize("steps", [1, 4])
def test_every_sample_stays_in_its_window_and_is_used_once(steps):
    _, exchange, found = places(steps, ranks=4)
    numbers = list(found)
    for k in range(0, len(numbers), steps):
        window = numbers[k : k + steps]
        own = sorted((number, row) for number in window for row in range(8))
        assert sorted(place for number in window for place in found[number]) == own
    assert any(found[n] != [(n, row) for row in range(8)] for n in numbers)
    assert exchange(numbers[0] - 1) == [(numbers[0] - 1, row) for row in range(8)]  # auxiliary's


@pytest.mark.parametrize(
    "steps, batch_size, before, after", [(16, 8, 1.6, 1.2), (1, 32, 1.25, 1.15)]
)
def test_nobody_waits_long(steps, batch_size, before, after):
    """The slowest of 8 processes against their mean, in Euler steps."""
    task, _, found = places(steps, 8, batch_size, windows=64 // steps)

    def waiting(batches):
        work = [
            task.work("student", Draws([(5, *place) for place in batch])).view(8, -1).sum(1)
            for batch in batches
        ]
        return float(torch.stack(work).amax(1).mean() / torch.stack(work).mean())

    assert waiting([[(n, row) for row in range(batch_size)] for n in found]) > before
    assert waiting(found.values()) < after


def test_long_and_short_batches_come_in_no_order():
    task, _, found = places(16, 8)
    work = [
        task.work("student", Draws([(5, *p) for p in batch])).mean() for batch in found.values()
    ]
    ranks = np.argsort(np.argsort(work[:16]))
    assert abs(np.corrcoef(ranks, range(16))[0, 1]) < 0.7


def test_parts_and_ranks_share_a_batch_out():
    exchange = Exchange(toy.mfd(), 4, 5, 8, 2)
    pieces = [EndlessBatches(50, 8, 5, 0, rank, 2, 2, exchange) for rank in range(2)]
    number = 2
    keys = [key for piece in pieces for part in range(2) for key in piece.noise_keys(number, part)]
    assert keys == [(5, *place) for place in exchange(number)]
    plain = EndlessBatches(50, 8, 5)
    for piece in pieces:
        lists = iter(piece)
        for n in range(number + 1):
            for part in range(2):
                expected = [plain._at(k * 8 + row) for k, row in piece.places(n, part)]
                assert next(lists) == expected


def test_two_processes_draw_the_curve_of_one_and_exchange_changes_no_update(tmp_path):
    options = dict(iterations=12, checkpoint_interval=50)
    toy.trainer(tmp_path / "plain", task=toy.mfd(), **options).train()
    toy.trainer(tmp_path / "within", task=toy.mfd(), balance=1, **options).train()
    toy.trainer(tmp_path / "one", task=toy.mfd(), balance=4, **options).train()
    more = ("--task", "mfd", "--iterations", 12, "--balance", 4)
    done = toy.run(tmp_path / "two", *more, processes=2)
    assert done.returncode == 0, done.stderr
    for a, b in (("plain", "within"), ("one", "two")):
        for key in ("student/loss", "student/gap", "auxiliary/loss", "student/grad_norm", "nfe"):
            one, two = (curve(tmp_path / name, key) for name in (a, b))
            assert one == pytest.approx(two, rel=1e-3, abs=1e-6) and len(one) == points(key, 12)
    # over whole windows the same samples were used: as many evaluations as before
    nfe = [curve(tmp_path / name, "nfe") for name in ("plain", "one")]
    assert [a == b for a, b in zip(*nfe)][4::4] == [True] * 3 and nfe[0] != nfe[1]


def test_the_loss_over_a_window_is_what_it_was():
    """Of one student, not trained: the mean over a window's updates, in whatever batches."""
    task = toy.mfd()
    clips, exchange = toy.Clips(), Exchange(task, 4, 5, 8)
    gaps = {}
    for name, swap in (("plain", None), ("exchanged", exchange)):
        order = EndlessBatches(len(clips), 8, 5, exchange=swap)
        gaps[name] = []
        for number in range(2, 12, 3):  # the student's of the first window
            chosen = [order._at(n * 8 + row) for n, row in order.places(number)]
            items = torch.utils.data.default_collate([clips[i] for i in chosen])
            batch = toy.latent_batch(items, Draws(order.noise_keys(number)))
            gaps[name].append(float(task.losses("student", batch, 0).logs["gap"]))
    assert np.mean(gaps["plain"]) == pytest.approx(np.mean(gaps["exchanged"]), rel=1e-5)
    assert np.std(gaps["plain"]) != pytest.approx(np.std(gaps["exchanged"]), rel=0.01)


def test_a_resumed_run_goes_on_in_the_middle_of_a_window(tmp_path):
    options = dict(balance=4, checkpoint_interval=6)
    toy.trainer(tmp_path / "whole", task=toy.mfd(), iterations=10, **options).train()
    toy.trainer(tmp_path / "half", task=toy.mfd(), iterations=6, **options).train()
    toy.trainer(
        tmp_path / "half", task=toy.mfd(), iterations=10, resume=True,
        asked=("train_distill.iterations",), **options,
    ).train()  # fmt: skip
    one, two = (ckpt.load(tmp_path / name / "student.pth")["model"] for name in ("whole", "half"))
    assert all(torch.equal(one[key], two[key]) for key in one)

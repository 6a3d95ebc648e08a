"""Numbers drawn ahead are the numbers that would have been drawn."""

import threading

import pytest
import torch

from occdistill.checkpoint import fingerprint
from occdistill.flow.path import Draws
from occdistill.training import ahead
from occdistill.training import trainer as trainer_module
from occdistill.training.ahead import draws_of
from tests.training.toy import mfd, trainer

KEYS = [(0, 3, 1), (0, 3, 2)]
USUAL = [("normal", (2, 3)), ("uniform", (1,)), ("normal", (4,)), ("normal", (4,))]
CPU = torch.device("cpu")


def ask(draws, requests):
    return [getattr(draws, law)(*shape) for law, shape in requests]


def by_thread(monkeypatch):
    """Who drew each request: this thread or another."""
    who, plain = [], Draws._numbers

    def numbers(self, law, shape):
        who.append("here" if threading.current_thread() is threading.main_thread() else "ahead")
        return plain(self, law, shape)

    monkeypatch.setattr(Draws, "_numbers", numbers)
    return who


@pytest.mark.parametrize(
    "asked",
    [
        USUAL,
        USUAL[:2],  # fewer than foreseen
        [*USUAL, ("uniform", (5,))],  # more
        [USUAL[0], ("uniform", (2,)), *USUAL[2:]],  # another shape, of which fewer numbers
        [("normal", (3, 2)), *USUAL[1:]],
        [*USUAL[:2], ("uniform", (4,)), ("normal", (4,))],  # another law
        [USUAL[2], USUAL[0], USUAL[1]],  # another order
    ],
)
def test_whatever_is_asked_the_bits_are_those_of_plain_draws(asked):
    nets = draws_of([("net", KEYS), ("net", KEYS[:1]), ("net", KEYS), ("other", KEYS)], CPU)
    ask(next(nets), USUAL)
    ask(next(nets), USUAL)
    for draws in nets:
        for one, plain in zip(ask(draws, asked), ask(Draws(KEYS), asked)):
            assert torch.equal(one, plain)


def test_each_net_is_foreseen_from_its_own_last_batch(monkeypatch):
    who, wants = by_thread(monkeypatch), {"a": USUAL, "b": USUAL[1:2]}
    nets = ["a", "b", "b", "a", "b", "a"]
    for net, draws in zip(nets, draws_of(((net, KEYS) for net in nets), CPU)):
        ask(draws, wants[net])
    # the first of each, and the second b, which was begun before the first was over
    assert who.count("here") == 4 + 1 + 1 and who.count("ahead") == 4 + 1 + 4


def test_the_next_batch_is_drawn_while_this_one_is_worked_on(monkeypatch):
    drawn = threading.Event()
    foresee = ahead.DrawnAhead._foresee

    def told(self, requests):
        found = foresee(self, requests)
        drawn.set()
        return found

    monkeypatch.setattr(ahead.DrawnAhead, "_foresee", told)
    nets = draws_of((("a", KEYS) for _ in range(4)), CPU)
    ask(next(nets), USUAL)
    ask(next(nets), USUAL)  # the third is begun when the second is handed out
    assert drawn.wait(20)


@pytest.mark.parametrize("cheaper", [{}, dict(ratio=4, reuse=2)])  # two updates ask one batch
def test_a_training_has_the_weights_that_it_has_with_plain_draws(tmp_path, monkeypatch, cheaper):
    def weights(folder, **options):
        task = trainer(tmp_path / folder, iterations=8, task=mfd(**cheaper), **options).train()
        return fingerprint(task.state_dict())

    drawn_ahead = weights("ahead"), weights("parts", accumulate=2)
    who = by_thread(monkeypatch)
    again = weights("again")
    assert again == drawn_ahead[0] and who.count("ahead") > 3 * who.count("here")
    monkeypatch.setattr(
        trainer_module, "draws_of",
        lambda batches, device: (Draws(keys, device) for _, keys in batches),
    )  # fmt: skip
    assert (weights("plain"), weights("plain parts", accumulate=2)) == drawn_ahead


@pytest.mark.gpu
def test_on_a_gpu_they_come_from_pinned_memory():
    for draws in draws_of((("a", KEYS) for _ in range(4)), torch.device("cuda")):
        ready = [] if draws._coming is None else draws._coming.result()
        assert all(one.numbers.is_pinned() for one in ready)
        for one, plain in zip(ask(draws, USUAL), ask(Draws(KEYS), USUAL)):
            assert one.is_cuda and torch.equal(one.cpu(), plain)
    assert len(ready) == len(USUAL)

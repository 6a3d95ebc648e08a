"""One training step: which net is updated on what, and what follows."""

import pytest
import torch
from torch import nn

from occdistill.distill.base import Loss, Task, take_step


class Pair(Task):
    """Two numbers; the loss of one is its product with the other and the batch."""

    def __init__(self):
        super().__init__({name: nn.Linear(1, 1, bias=False) for name in ("a", "b")})
        for value, net in zip((2.0, 3.0), self.nets.values()):
            nn.init.constant_(net.weight, value)
        self.followed = []

    def plan(self, step):
        return ("b", "b", "a") if step else ("a",)

    def product(self, batch):
        a, b = (net.weight.sum() for net in self.nets.values())
        return Loss(a * b * batch, {"batch": torch.tensor(float(batch))})

    def a_loss(self, batch, step):
        return self.product(batch)

    def b_loss(self, batch, step):
        return self.product(10 * batch)

    def after(self, name, step):
        self.followed.append((name, step))


class Descent:
    """Gradient descent with rate 1/100, which may skip."""

    def __init__(self, net, skip=False):
        self.net, self.skip = net, skip

    def backward(self, loss):
        loss.backward()

    def step(self):
        gradient, self.net.weight.grad = self.net.weight.grad, None
        if self.skip:
            return None
        with torch.no_grad():
            self.net.weight -= gradient / 100
        return gradient.norm()


def test_each_net_of_the_plan_descends_its_own_loss_on_a_batch_of_its_own():
    task = Pair()
    updaters = {name: Descent(net) for name, net in task.nets.items()}
    batches = iter((1, 2, 3, 4))
    updates = take_step(task, batches, updaters, 0) + take_step(task, batches, updaters, 1)
    assert [name for name, _ in updates] == ["a", "b", "b", "a"]
    a = 2 - 3 / 100
    b = [3, 3 - 20 * a / 100, 3 - 20 * a / 100 - 30 * a / 100]
    wanted = [
        {"loss": 6, "batch": 1, "grad_norm": 3},
        {"loss": 20 * a * b[0], "batch": 20, "grad_norm": 20 * a},
        {"loss": 30 * a * b[1], "batch": 30, "grad_norm": 30 * a},
        {"loss": 4 * a * b[2], "batch": 4, "grad_norm": 4 * b[2]},
    ]
    for (_, scalars), right in zip(updates, wanted):
        assert {key: float(value) for key, value in scalars.items()} == pytest.approx(right)
    assert task.followed == [("a", 0), ("b", 1), ("b", 1), ("a", 1)]
    assert all(parameter.grad is None for parameter in task.parameters())


def test_nothing_follows_an_update_that_was_not_made():
    task = Pair()
    updaters = {name: Descent(net, skip=name == "b") for name, net in task.nets.items()}
    updates = take_step(task, iter((1, 2, 3)), updaters, 1)
    assert [("grad_norm" in scalars) for _, scalars in updates] == [False, False, True]
    assert task.followed == [("a", 1)] and task.nets["b"].weight == 3

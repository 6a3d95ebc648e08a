"""One update of one net, the one that overflows, and the moving average."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from occdistill.distill.base import take_step
from occdistill.flow.path import Draws
from occdistill.training.updates import MovingAverage, Updater, memory
from tests.training.curves import curve

spec = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


def test_updater_warms_up_decays_and_clips():
    net = torch.nn.Linear(1, 1, bias=False)
    updater = Updater(net, 0.5, updates=100, final_lr=0.1, warmup=10, clip=1.0)
    assert updater.rate(0) == pytest.approx(0.05)
    assert updater.rate(50) == pytest.approx(0.3) and updater.rate(100) == pytest.approx(0.1)
    for _ in range(7):  # gathered
        updater.backward(net.weight.sum())
    norm = updater.step()
    assert norm == 7 and net.weight.grad is None and updater.count == 1
    assert updater.optimizer.state[net.weight]["exp_avg"].item() == pytest.approx(0.1)  # clipped


@pytest.mark.parametrize("base", [None, "teacher", "student"])
def test_what_a_training_holds_is_counted_once(base):
    """Field has 417 numbers; adapters of rank 2 for its layers 2 (15 + 16) + 2 (16 + 8)."""
    whole, rank = 15 * 16 + 16 + 16 * 8 + 8, 2 * (15 + 16) + 2 * (16 + 8)
    options = {} if base is None else dict(auxiliary_rank=2, auxiliary_base=base)
    task, extra = toy.mfd(**options), whole if base is None else rank
    updaters = {name: Updater(net, 1e-3) for name, net in task.nets.items()}
    items = [toy.Clips(4)[i] for i in range(4)]
    items = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    batches = iter(lambda: toy.latent_batch(items, Draws(range(4))), None)
    take_step(task, batches, updaters, 0)
    held = memory(task, updaters)
    assert held["weights"] == pytest.approx(4 * (2 * whole + extra) / 2**20)
    assert held["gradients"] == pytest.approx(4 * whole / 2**20)
    tensors = 2 + (2 if base is None else 4)  # each with Adam's count of steps
    optimisers = 4 * (2 * (whole + extra) + 2 + tensors) / 2**20
    assert held["optimisers"] == pytest.approx(optimisers, abs=4 * 10 / 2**20)


def test_moving_average_of_a_constant_is_the_constant():
    net = torch.nn.Linear(2, 2)
    average = MovingAverage(net, 0.99)
    target = {k: torch.full_like(v, 3.0) for k, v in net.state_dict().items()}
    net.load_state_dict(target)
    gaps = []
    for _ in range(400):
        average.update(net)
        gaps.append((average.net.weight - 3).abs().max().item())
    assert gaps[0] < 0.2 * 4 and gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.05


def overflowing(loss):
    """The same loss, whose gradients are infinite."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


def test_an_update_that_overflows_is_none():
    """Weights, Adam's moments, warm-up and count stay; the next one is as if it came first."""
    nets = [torch.nn.Linear(1, 1, bias=False) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    scaled, plain = (
        Updater(net, 0.5, warmup=10, loss_scaling=i == 0, loss_scale=8.0)
        for i, net in enumerate(nets)
    )
    before = nets[0].weight.clone()
    scaled.backward(overflowing(nets[0].weight.sum() * 1.0))
    assert scaled.step() is None
    assert scaled.count == 0 and scaled.scaler.get_scale() == 4.0
    assert torch.equal(nets[0].weight, before) and nets[0].weight.grad is None
    for net, updater in zip(nets, (scaled, plain)):
        updater.backward(net.weight.sum() * 0.5)
        assert updater.step() == 0.5 and updater.count == 1
    assert torch.equal(nets[0].weight, nets[1].weight) and not torch.equal(nets[0].weight, before)


class Overflows(toy.Toy):
    """The student's gradients overflow at step 2."""

    def losses(self, name, batch, step):
        loss = super().losses(name, batch, step)
        if name == "student" and step in (2, 3):
            self.before = {k: v.clone() for k, v in self.nets[name].state_dict().items()}
        if name == "student" and step == 2:
            overflowing(loss.total)
        return loss

    def after(self, name, step):
        super().after(name, step)
        if name == "auxiliary" and step == 3 and not hasattr(self, "kept"):
            self.kept = all(
                torch.equal(v, self.before[k]) for k, v in self.nets["student"].state_dict().items()
            )


def test_nothing_follows_an_update_that_overflows(tmp_path):
    task = Overflows()
    run = toy.trainer(tmp_path, iterations=6, task=task)
    run.updaters["student"].scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    run.train()
    assert task.kept
    assert run.iter == 6 and run.updaters["auxiliary"].count == 12  # steps and batches go on
    assert run.updaters["student"].count == run.average.count == task.changes == 5
    norms = curve(tmp_path, "student/grad_norm")
    assert len(norms) == 5 and all(math.isfinite(x) for x in norms)


def test_the_loss_scale_starts_where_the_settings_say(tmp_path, monkeypatch):
    monkeypatch.setattr(toy.Trainer, "half", True)
    for name, options, start in (("ours", {}, 65536.0), ("occfm", {"loss_scale": 10.0}, 10.0)):
        run = toy.trainer(tmp_path / name, **options)
        assert {u.scaler.get_scale() for u in run.updaters.values()} == {start}

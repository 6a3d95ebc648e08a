"""The trainer on a GPU: half precision, averages, gradients in parts, a run that is gone on with."""

import pytest
import torch
from mmengine.hooks import Hook

from occdistill import checkpoint as ckpt
from occdistill.training.hooks import Collapse, Validation
from tests.pretended.device import one_of_two
from tests.training import toy
from tests.training.curves import curve

OPTIONS = dict(iterations=6, checkpoint_interval=3, val_interval=3, loss_scale=64.0)


def run(folder, device="cuda", amp=False, **options):
    trainer = toy.trainer(folder, task=toy.mfd(), device=device, amp=amp, **{**OPTIONS, **options})
    trainer.train()
    return trainer


def test_a_training_draws_the_cpus_curves(gpu, tmp_path):
    here, there = run(tmp_path / "cpu", "cpu"), run(tmp_path / "gpu")
    for key in ("student/loss", "student/gap", "auxiliary/loss", "student/grad_norm", "nfe"):
        curves = (curve(tmp_path / device, key) for device in ("cpu", "gpu"))
        assert next(curves) == pytest.approx(next(curves), rel=1e-3, abs=1e-6)
    assert all(p.is_cuda for p in there.average.net.parameters())
    weights = [ckpt.load(trainer.weights_file)["model"] for trainer in (here, there)]
    for key, value in weights[0].items():
        assert not weights[1][key].is_cuda
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)


class Stop(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.stopped = runner.iter == 4


def test_a_run_in_half_precision_and_in_parts_goes_on_where_it_stopped(gpu, tmp_path):
    options = dict(amp=True, accumulate=2)
    whole = run(tmp_path / "whole", **options)
    assert whole.half and whole.updaters["student"].scaler.is_enabled()
    assert run(tmp_path / "parts", hooks=[Stop()], **options).iter == 4
    again = run(tmp_path / "parts", resume=True, **options)
    assert again.iter == whole.iter == 6
    for one, other in zip(again.task.state_dict().values(), whole.task.state_dict().values()):
        assert one.is_cuda and torch.equal(one, other)
    for one, other in zip(again.average.net.parameters(), whole.average.net.parameters()):
        assert torch.equal(one, other)
    for name, updater in again.updaters.items():
        assert updater.count == whole.updaters[name].count > 0
        assert updater.scaler.get_scale() == whole.updaters[name].scaler.get_scale()
    run(tmp_path / "exact", "cpu")
    rounded, full = (curve(tmp_path / name, "auxiliary/loss") for name in ("whole", "exact"))
    assert rounded == pytest.approx(full, rel=0.05) and rounded != full


def test_an_update_that_overflows_in_float16_is_none(gpu, tmp_path):
    trainer = run(tmp_path, amp=True, iterations=2, loss_scale=2.0**40, ema=0.9)
    student = trainer.updaters["student"]
    assert student.count == 0 == student.average.count
    assert student.scaler.get_scale() == 2.0**38


def test_two_processes_reduce_what_lies_on_the_gpu(gpu, tmp_path):
    if gpu.waits is None:
        pytest.skip("the other process is pretended")
    scores = {"mIoU": 1.0, "spread": 1.0, "teacher_spread": 1.0}
    hooks = [Validation(lambda net: scores), Collapse("nothing")]
    with one_of_two():
        trainer = run(tmp_path, amp=True, hooks=hooks)
        assert trainer.world_size == 2 and trainer.iter == 6

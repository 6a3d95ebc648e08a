import errno
import importlib.util
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from occdistill import checkpoint as ckpt
from occdistill.errors import UserError
from tests.training.curves import curve, points

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("toy", HERE / "toy.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


@pytest.mark.parametrize("task", [pytest.param("toy", marks=pytest.mark.slow), "mfd"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, task):
    killed = toy.run(tmp_path / "killed", "--task", task, "--die-at", "17")
    assert killed.returncode == -signal.SIGKILL
    unfinished = tmp_path / "killed" / ".iter_21.pth.4242.tmp"
    unfinished.mkdir()
    (unfinished / "iter_21.pth").write_bytes(b"half of a checkpoint")
    assert [p.name for p in ckpt.step_files(tmp_path / "killed")] == ["iter_7.pth", "iter_14.pth"]
    assert not (tmp_path / "killed" / "student.pth").exists()
    resumed = toy.run(tmp_path / "killed", "--task", task, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    toy.trainer(tmp_path / "whole", task=toy.mfd() if task == "mfd" else toy.Toy()).train()
    states = [ckpt.load(tmp_path / name / "iter_30.pth") for name in ("killed", "whole")]
    for state in states:
        del state["meta"]["time"]
    assert_same(*states)
    assert not list((tmp_path / "killed").glob(".*"))
    for key in ("student/loss", "auxiliary/grad_norm", "nfe"):
        a, b = (curve(tmp_path / name, key) for name in ("killed", "whole"))
        assert a == b and len(a) == points(key, 30)


def assert_same(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b)):
            assert_same(*pair, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def test_two_processes_draw_the_curve_of_one(tmp_path):
    toy.trainer(tmp_path / "one", task=toy.mfd()).train()
    done = toy.run(tmp_path / "two", "--task", "mfd", processes=2)
    assert done.returncode == 0, done.stderr
    for key in ("student/loss", "student/gap", "auxiliary/loss", "student/grad_norm", "nfe"):
        one, two = (curve(tmp_path / name, key) for name in ("one", "two"))
        assert one == pytest.approx(two, rel=1e-3, abs=1e-6) and len(one) == points(key, 30)
    weights = [ckpt.load(tmp_path / name / "student.pth")["model"] for name in ("one", "two")]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-3, atol=1e-5)


CHEAP = dict(
    ratio=4, final_ratio=2, fall=20, reuse=2, solver="midpoint", auxiliary_rank=2,
    auxiliary_base="student",
)  # fmt: skip


def test_a_cheap_run_that_stops_between_two_steps_goes_on_to_the_same_bits(tmp_path):
    class Stop(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.stopped = runner.iter == 17

    toy.trainer(tmp_path / "whole", task=toy.mfd(**CHEAP)).train()
    toy.trainer(tmp_path / "broken", task=toy.mfd(**CHEAP), hooks=[Stop()]).train()
    toy.trainer(tmp_path / "broken", task=toy.mfd(**CHEAP), resume=True).train()
    states = [ckpt.load(tmp_path / name / "iter_30.pth") for name in ("whole", "broken")]
    for state in states:
        del state["meta"]["time"]
    assert_same(*states)
    meta = states[0]["meta"]
    assert meta["passes"] > meta["nfe"] > 0


@pytest.mark.parametrize("options", [{}, CHEAP], ids=["plain", "cheap"])
def test_accumulated_gradients_draw_the_same_curve(tmp_path, options):
    toy.trainer(tmp_path / "whole", task=toy.mfd(**options)).train()
    toy.trainer(tmp_path / "parts", task=toy.mfd(**options), accumulate=2).train()
    for key in ("student/loss", "student/gap", "auxiliary/loss", "student/grad_norm", "nfe"):
        whole, parts = (curve(tmp_path / name, key) for name in ("whole", "parts"))
        assert whole == pytest.approx(parts, rel=1e-3, abs=1e-6) and len(whole) == points(key, 30)
    task = toy.mfd()
    task.whole_batch = True
    with pytest.raises(UserError, match="MFD compares the samples of its whole batch"):
        toy.trainer(tmp_path / "refused", task=task, accumulate=2)


def test_half_precision_casts_weights_anew_for_every_run_of_a_net(tmp_path):
    """Else a run without gradients comes first, and the second one finds its weights cast so."""
    trainer = toy.trainer(tmp_path)
    with trainer.autocast():
        assert not torch.is_autocast_cache_enabled()


def test_every_sample_once_per_epoch_in_another_order(tmp_path):
    task = toy.Toy()
    toy.trainer(tmp_path, iterations=8, task=task).train()
    order = [i for batch in task.seen[1:] for i in batch]  # 8 steps, 3 batches of 4 each
    epochs = [order[k : k + 23] for k in range(0, 92, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_checkpoints_kept_best_and_counted(tmp_path):
    scores = iter([9.0, 0.2, 0.5, 0.3])
    run = toy.trainer(tmp_path, keep=2, validate=lambda net: {"mIoU": next(scores), "IoU": 0.9})
    run.train()
    assert [p.name for p in ckpt.step_files(tmp_path)] == ["iter_28.pth", "iter_30.pth"]
    best, final = (ckpt.load(tmp_path / f"{name}.pth", "distill") for name in ("best", "student"))
    assert best["meta"]["metrics"]["mIoU"] == 0.5 and best["meta"]["step"] == 20
    assert final["meta"]["metrics"]["mIoU"] == 0.3 and "training" not in final
    assert final["meta"]["nfe"] == 30 * 3 * 4
    assert_same(dict(run.average.net.state_dict()), dict(ckpt.weights(final)))
    assert curve(tmp_path, "val/mIoU") == [9.0, 0.2, 0.5, 0.3]
    assert curve(tmp_path, "val_by_nfe/mIoU") == [9.0, 0.2, 0.5, 0.3]  # at 0, 120, 240, 360


def test_validation_leaves_training_alone(tmp_path):
    def nosy(net):
        assert not net.training
        torch.manual_seed(3)
        net(torch.randn(2, 4))
        return {"mIoU": 0.0}

    task = toy.Toy()
    toy.trainer(tmp_path / "a", task=task, ema=0.0, validate=nosy).train()
    assert task.nets["student"].training
    toy.trainer(tmp_path / "b", task=(other := toy.Toy()), ema=0.0).train()
    assert_same(task.state_dict(), other.state_dict())


def test_full_disk_stops_with_a_sentence_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    save = torch.save

    def fill_up(obj, file):
        if obj["meta"]["step"] == 14:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(obj, file)

    monkeypatch.setattr(torch, "save", fill_up)
    with pytest.raises(UserError, match=r"iter_14.pth \(No space left on device\).*--resume"):
        toy.trainer(tmp_path).train()
    monkeypatch.undo()
    run = toy.trainer(tmp_path, resume=True)
    run.resume_newest()
    assert run.iter == 7


def test_resume_refuses_other_nets_and_other_data(tmp_path):
    toy.trainer(tmp_path, iterations=7, fingerprints={"data": "aaa"}).train()
    with pytest.raises(UserError, match="trained on data aaa, not bbb"):
        toy.trainer(tmp_path, resume=True, fingerprints={"data": "bbb"}).train()
    task = toy.Toy()
    task.nets["student"] = torch.nn.Linear(4, 4)
    with pytest.raises(UserError, match="another architecture"):
        toy.trainer(tmp_path, resume=True, task=task, fingerprints={"data": "aaa"}).train()


def test_a_diverged_run_says_so(tmp_path):
    task = toy.Toy()
    task.teacher.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="auxiliary/loss became nan at step 1"):
        toy.trainer(tmp_path, task=task).train()


def test_batch_that_does_not_divide_is_refused():
    from occdistill.training.batches import EndlessBatches

    with pytest.raises(UserError, match="batch_size 5 is not a multiple of 2 processes"):
        EndlessBatches(10, 5, seed=0, ranks=2)
    with pytest.raises(UserError, match="training set is empty"):
        EndlessBatches(0, 5, seed=0)
    with pytest.raises(UserError, match="3 samples of a process can't be accumulated in 2 equal"):
        EndlessBatches(10, 6, seed=0, ranks=2, parts=2)


def test_ranks_share_what_one_process_does():
    from itertools import islice

    from occdistill.training.batches import EndlessBatches

    whole = EndlessBatches(10, 6, seed=3)
    parts = [EndlessBatches(10, 6, seed=3, rank=rank, ranks=3) for rank in range(3)]
    together = [[i for piece in row for i in piece] for row in zip(*(islice(p, 7) for p in parts))]
    assert together == list(islice(whole, 7))
    assert [s for part in parts for s in part.noise_keys(5)] == whole.noise_keys(5)
    assert list(islice(EndlessBatches(10, 6, seed=3, start=4), 3)) == together[4:]
    halves = EndlessBatches(10, 6, seed=3, start=4, rank=1, ranks=2, parts=3)
    assert list(islice(halves, 3)) == [[i] for i in together[4][3:]]
    assert [key for k in range(3) for key in halves.noise_keys(4, k)] == whole.noise_keys(4)[3:]
    assert len({s for k in range(50) for s in whole.noise_keys(k)}) == 300

"""Two small tasks on random numbers, and a command that trains them: what the tests kill."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from occdistill.build.settings import Settings
from occdistill.distill.base import Loss, Task
from occdistill.distill.mfd import MFD
from occdistill.processes import joined
from occdistill.training.hooks import Checkpoints, Curves, Validation
from occdistill.training.teacher import latent_batch
from occdistill.training.trainer import Trainer


class Numbers(Dataset):
    def __init__(self, length=23):
        self.x = torch.randn(length, 4, generator=torch.Generator().manual_seed(7))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "index": index}


class Toy(Task):
    """Student and auxiliary that chase each other through dropout; two updates of one per other."""

    def __init__(self):
        torch.manual_seed(0)
        teacher = nn.Linear(4, 4).requires_grad_(False)
        super().__init__({name: self.net() for name in ("student", "auxiliary")}, teacher)
        self.register_buffer("changes", torch.zeros(()))
        self.seen = []

    @staticmethod
    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 4))

    def plan(self, step):
        return ("auxiliary", "auxiliary", "student")

    def losses(self, name, batch, step):
        items, draws = batch
        self.seen.append(items["index"].tolist())
        self.evaluations += len(items["x"])
        x = items["x"] + draws.normal(4)
        target = self.teacher(x) if name == "auxiliary" else self.nets["auxiliary"](x)
        loss = (self.nets[name](x) - target).square().mean()
        return Loss(loss, {"noise": x.detach().mean()})

    def after(self, name, step):
        self.changes += name == "student"


class Field(nn.Module):
    """A velocity field on latents of 2 frames of 1 × 2 × 2 that looks at all of its inputs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8 + 1 + 4 + 2, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, x_t, t, condition):
        seen = [x_t.flatten(1), t[:, None], condition.past.flatten(1), condition.trajectory[:, 0]]
        return self.layers(torch.cat(seen, 1)).view(x_t.shape)


class Clips(Dataset):
    def __init__(self, length=23):
        draw = torch.Generator().manual_seed(7)
        self.past = torch.randn(length, 1, 1, 2, 2, generator=draw)
        self.future = torch.randn(length, 2, 1, 2, 2, generator=draw)

    def __len__(self):
        return len(self.past)

    def __getitem__(self, i):
        return {
            "past": self.past[i],
            "future": self.future[i],
            "trajectory": self.past[i, 0, 0, :1],
        }


def mfd(**options):
    torch.manual_seed(0)
    options = {"guidance": 2.0, "ratio": 2, "ode_step": 0.1, **options}
    return MFD(Field(), latent_shape=(2, 1, 2, 2), **options)


def trainer(work_dir, iterations=30, task=None, validate=None, hooks=(), **options):
    settings = {"batch_size": 4, "lr": 1e-2, "warmup": 5, "ema": 0.9, "log_interval": 1}
    settings |= {"checkpoint_interval": 7, "val_interval": 10}
    settings |= {k: options.pop(k) for k in list(options) if k in Settings.__dataclass_fields__}
    task = task or Toy()
    on_latents = isinstance(task, MFD)
    hooks = [*hooks, Curves(), Checkpoints(), *([Validation(validate)] if validate else [])]
    return Trainer(
        task,
        Clips() if on_latents else Numbers(),
        latent_batch if on_latents else lambda items, draws: (items, draws),
        Settings(iterations=iterations, **settings),
        kind="distill",
        work_dir=work_dir,
        hooks=hooks,
        **options,
    )


def run(work_dir, *options, processes=1):
    """Train in processes of their own: forked ones can't share this one's autograd threads."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [sys.executable, __file__, work_dir, *options]
    if processes > 1:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
        command[1:1] = torchrun
        command += ["--launcher", "pytorch"]
    command = [str(word) for word in command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--launcher", default="none")
    parser.add_argument("--task", choices=("toy", "mfd"), default="toy")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--balance", type=int, default=Settings.balance)
    args = parser.parse_args()
    task = Toy() if args.task == "toy" else mfd()
    after_update = task.after

    def after(name, step):
        after_update(name, step)
        if step == args.die_at and name == "auxiliary":
            os.kill(os.getpid(), signal.SIGKILL)

    task.after = after
    with joined("cpu", args.launcher):
        how = dict(iterations=args.iterations, balance=args.balance, resume=args.resume)
        trainer(args.work_dir, task=task, **how).train()

"""A two-net task on random numbers, and a command that trains it: what the resume tests kill."""

import argparse
import os
import signal

import torch
from torch import nn
from torch.utils.data import Dataset

from occdistill.distill.base import Loss
from occdistill.training.trainer import Settings, Trainer


class Numbers(Dataset):
    def __init__(self, length=23):
        self.x = torch.randn(length, 4, generator=torch.Generator().manual_seed(7))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "index": index}


class Toy(nn.Module):
    """Student and auxiliary that chase each other through dropout; two updates of one per other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.teacher = nn.Linear(4, 4).requires_grad_(False)
        self.nets = nn.ModuleDict({name: self.net() for name in ("student", "auxiliary")})
        self.register_buffer("changes", torch.zeros(()))
        self.seen, self.evaluations = [], 0

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


def trainer(work_dir, iterations=30, task=None, **options):
    settings = {"batch_size": 4, "lr": 1e-2, "warmup": 5, "ema": 0.9, "log_interval": 1}
    settings |= {"checkpoint_interval": 7, "val_interval": 10}
    settings |= {k: options.pop(k) for k in list(options) if k in Settings.__annotations__}
    return Trainer(
        task or Toy(),
        Numbers(),
        lambda items, draws: (items, draws),
        Settings(iterations=iterations, **settings),
        kind="distill",
        work_dir=work_dir,
        **options,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--launcher", default="none")
    args = parser.parse_args()
    toy = Toy()
    if args.launcher != "none":
        for net in toy.nets.values():  # dropout draws per rank, not per sample
            net[1].p = 0.0

    def after(name, step):
        Toy.after(toy, name, step)
        if step == args.die_at and name == "auxiliary":
            os.kill(os.getpid(), signal.SIGKILL)

    toy.after = after
    trainer(args.work_dir, task=toy, resume=args.resume, launcher=args.launcher).train()

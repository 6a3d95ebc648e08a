"""mmengine's Runner with this project's update, checkpoints and exact resume.

From mmengine come the work directory, logs, the visualiser (TensorBoard and a plain
`scalars.json`), seeds and hooks (also those of a config's `custom_hooks`). What is ours is the
update of several nets by name, randomness that depends on seed and place alone, and checkpoints
that are written atomically and read without unpickling.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from occdistill import checkpoint as ckpt
from occdistill import seeds
from occdistill.distill.base import only_grad
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.training.batches import EndlessBatches
from occdistill.training.hooks import Checkpoints, Curves, Validation
from occdistill.training.updates import MovingAverage, Updater


@dataclass
class Settings:
    """How long and how fast to train; a config's `train_*` dict.

    Attributes:
        iterations: training steps; each runs the task's plan once (for MFD: ten updates of the
            auxiliary and one of the student).
        batch_size: samples of one update over all processes.
        lr: learning rate, or one per net.
        final_lr: where the rate goes along a cosine until the end; None keeps it constant.
        weight_decay: decoupled, as in AdamW.
        warmup: updates of each net over which its rate rises linearly.
        clip: largest gradient norm; 0 for none.
        ema: decay of the moving average of the main net's weights; 0 for none.
        amp: float16 with loss scaling where there is a GPU.
        loss_scale: where that scaling starts. PyTorch's own start costs a few updates that
            overflow and don't count; OccFM's and MFD's trainings start at 10.
        seed: of weights, order and noise.
        log_interval: steps between two points of the curves.
        checkpoint_interval: steps between two files to resume from.
        val_interval: steps between two validations.
        keep: how many files to resume from are kept.
        compact: store the final weights in float16, half the size, for shipping.
        workers: processes that read data.
    """

    iterations: int
    batch_size: int
    lr: float | Mapping[str, float] = 1e-4
    final_lr: float | None = None
    weight_decay: float = 0.0
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.0
    amp: bool = True
    loss_scale: float = 2.0**16
    seed: int = 0
    log_interval: int = 20
    checkpoint_interval: int = 500
    val_interval: int = 500
    keep: int = 2
    compact: bool = False
    workers: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Those keys of a config's `train_*` dict that are settings; tasks take the rest."""
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})


class UpdateLoop(BaseLoop):
    """Runs a task's plan step after step, each entry of a plan on a batch of its own."""

    def __init__(self, trainer: Trainer) -> None:
        self._runner, self.dataloader = trainer, None
        self._iter, self._max_iters = 0, trainer.settings.iterations
        self.batches = 0  # batches used so far

    @property
    def iter(self) -> int:
        """Steps done."""
        return self._iter

    @property
    def max_iters(self) -> int:
        """Steps to do."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Times that every sample was seen."""
        return self.batches * self.runner.settings.batch_size // len(self.runner.dataset)

    def run(self) -> nn.Module:
        """Train from where the trainer stands to the last step."""
        trainer, batches = self.runner, self._load()
        trainer.call_hook("before_train")
        while self._iter < self._max_iters:
            trainer.call_hook("before_train_iter", batch_idx=self._iter, data_batch=None)
            logs = self._step(batches)
            self._iter += 1
            trainer.call_hook(
                "after_train_iter", batch_idx=self._iter - 1, data_batch=None, outputs=logs
            )
        trainer.call_hook("after_train")
        return trainer.model

    def _load(self) -> Iterator:
        """Endless batches from the next one on, as the task wants them."""
        trainer, settings = self.runner, self.runner.settings
        order = EndlessBatches(
            len(trainer.dataset),
            settings.batch_size,
            settings.seed,
            self.batches,
            trainer.rank,
            trainer.world_size,
        )
        loader = DataLoader(
            trainer.dataset,
            batch_sampler=order,
            num_workers=settings.workers,
            pin_memory=trainer.device.type == "cuda",
            persistent_workers=settings.workers > 0,
        )
        for items in loader:
            keys = order.noise_keys(self.batches)
            # for layers that draw by themselves, such as dropout
            torch.manual_seed(seeds.number(*keys[0]))
            self.batches += 1
            items = {
                key: value.to(trainer.device, non_blocking=True) for key, value in items.items()
            }
            yield trainer.make_batch(items, Draws(keys, trainer.device))

    def _step(self, batches: Iterator) -> dict[str, Tensor]:
        trainer, task = self.runner, self.runner.task
        logs: dict[str, list[Tensor]] = defaultdict(list)
        for name in task.plan(self._iter):
            batch, updater = next(batches), trainer.updaters[name]
            with only_grad(task.nets, name):
                before = getattr(task, "evaluations", 0)
                with trainer.autocast():
                    loss = task.losses(name, batch, self._iter)
                trainer.evaluations += getattr(task, "evaluations", 0) - before
                made = updater.count
                norm = updater.step(loss.total)
            if updater.count > made:  # else the loss scaler has skipped it
                task.after(name, self._iter)
                if trainer.average is not None and name == trainer.main:
                    trainer.average.update(task.nets[name])
                logs[f"{name}/grad_norm"].append(norm)
            logs[f"{name}/loss"].append(loss.total.detach())
            for key, value in loss.logs.items():
                logs[f"{name}/{key}"].append(value)
        return {key: torch.stack(values).float().mean() for key, values in logs.items()}


class Trainer(Runner):
    """Trains a task: nets by name, a plan of updates, a loss for each.

    Args:
        task: module with `nets`, `main` (default: its first net), `plan(step)`,
            `losses(name, batch, step) -> Loss` and `after(name, step)`.
        dataset: map-style dataset of dicts of tensors.
        make_batch: what `losses` takes, of collated items and their random streams.
        settings: how long and how fast.
        kind: of the checkpoints: `vae`, `light`, `teacher` or `distill`.
        work_dir: where checkpoints and logs go.
        cfg: the whole config, kept with the weights; `custom_hooks` are registered.
        fingerprints: of the data and frozen weights it trains on.
        validate: `net -> {"mIoU": ..., ...}`, higher is better; None for no validation.
        resume: go on from the newest `iter_*.pth` in `work_dir`, if there is one.
        device: `cpu`, `cuda` or `cuda:N`; with a launcher, each process takes its own GPU.
        launcher: `none`, or `pytorch` under torchrun.
    """

    def __init__(
        self,
        task: nn.Module,
        dataset: Dataset,
        make_batch: Callable[[dict[str, Tensor], Draws], Any],
        settings: Settings,
        *,
        kind: str,
        work_dir: str | Path,
        cfg: Config | None = None,
        fingerprints: Mapping[str, str] | None = None,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        resume: bool = False,
        device: torch.device | str = "cpu",
        launcher: str = "none",
    ) -> None:
        self.device = torch.device(device)
        if launcher != "none" and self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.dataset, self.make_batch, self.settings = dataset, make_batch, settings
        self.kind, self.validate = kind, validate
        self.fingerprints = dict(fingerprints or {})
        self.folder, self.metrics, self.best = Path(work_dir), {}, -math.inf
        self.nfe = 0  # network evaluations spent on training, in clips, over all ranks
        self.evaluations = 0  # those of this rank that are not yet in `nfe`
        super().__init__(
            model=task,
            work_dir=str(work_dir),
            default_hooks=dict.fromkeys(
                ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
            ),
            custom_hooks=[
                Curves(),
                Validation(),
                Checkpoints(),
                *(cfg or {}).get("custom_hooks", []),
            ],
            launcher=launcher,
            log_level="WARNING",
            visualizer=dict(
                type="Visualizer",
                vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
            ),
            randomness=dict(seed=seeds.number(settings.seed)),
            experiment_name=f"{kind}_{uuid4().hex[:8]}",
            cfg=cfg,
            resume=resume,
        )
        self.task = self.model
        self.config_text = self.cfg.pretty_text if cfg else ""
        self.main = getattr(task, "main", next(iter(task.nets)))
        self.updaters = {name: self._updater(name) for name in task.nets}
        self.average = MovingAverage(task.nets[self.main], settings.ema) if settings.ema else None
        self._train_loop = UpdateLoop(self)

    def _updater(self, name: str) -> Updater:
        s = self.settings
        return Updater(
            self.model.nets[name],
            s.lr[name] if isinstance(s.lr, Mapping) else s.lr,
            s.iterations * max(1, self.model.plan(0).count(name)),
            s.final_lr,
            s.weight_decay,
            s.warmup,
            s.clip,
            loss_scaling=self.half,
            loss_scale=s.loss_scale,
        )

    # What Runner would do differently.

    def setup_env(self, env_cfg: dict) -> None:
        """Join the process group, on the device's own backend, then what mmengine does."""
        if self.distributed and not torch.distributed.is_initialized():
            cuda = self.device.type == "cuda"
            if cuda:
                torch.cuda.set_device(self.device)
            torch.distributed.init_process_group("nccl" if cuda else "gloo")
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Only move to the device: gradients are averaged by `Updater`."""
        return model.to(self.device)

    def _log_env(self, env_cfg: dict) -> None:
        """The config is dumped to the work directory; no survey of the machine's compilers."""

    def train(self) -> nn.Module:
        """Train to the end; returns the task."""
        self.call_hook("before_run")
        if self._resume:
            self.resume_newest()
        self.train_loop.run()
        self.call_hook("after_run")
        if self.distributed:  # leave together: gloo's threads must not outlive the interpreter
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return self.model

    # State.

    @property
    def best_net(self) -> nn.Module:
        """The main net with the weights that will be used later."""
        return self.task.nets[self.main] if self.average is None else self.average.net

    @property
    def weights_file(self) -> Path:
        """Where the weights are at the end, without what only a resume needs."""
        return self.folder / f"{self.main}.pth"

    @property
    def half(self) -> bool:
        """Whether to compute in half precision."""
        return self.settings.amp and self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Half precision where it is used."""
        return torch.autocast(self.device.type, torch.float16, enabled=self.half)

    @torch.no_grad()
    def first_losses(self) -> dict[str, Tensor]:
        """Losses of the main net before any update, on samples spread over the data set."""
        size, count = len(self.dataset), self.settings.batch_size
        chosen = [i * size // count for i in range(self.rank, count, self.world_size)]
        items = default_collate([self.dataset[i] for i in chosen])
        items = {key: value.to(self.device) for key, value in items.items()}
        batch = self.make_batch(items, Draws(chosen, self.device))
        with self.autocast():
            loss = self.task.losses(self.main, batch, 0)
        logs = {"loss": loss.total, **loss.logs}
        return {f"{self.main}/{key}": value.detach().float() for key, value in logs.items()}

    def write(self, scalars: Mapping[str, float], step: int | None = None) -> None:
        """Add points to the curves, at the number of main-net updates unless told otherwise."""
        if self.rank == 0:
            step = self.updaters[self.main].count if step is None else step
            self.visualizer.add_scalars(dict(scalars), step=step)

    def _trained_state(self) -> dict[str, Tensor]:
        """State of the task without its frozen teacher."""
        teacher = getattr(self.task, "teacher", None)
        known = () if teacher is None else teacher.state_dict(keep_vars=True).values()
        known = {id(value) for value in known}
        state = self.task.state_dict(keep_vars=True)
        return {k: v.detach() for k, v in state.items() if id(v) not in known}

    def checkpoint(self, resumable: bool = False) -> dict[str, Any]:
        """The trainer's state as a checkpoint; see `occdistill.checkpoint`.

        One that isn't resumable holds the averaged weights alone, as its model.
        """
        net = self.task.nets[self.main] if resumable else self.best_net
        model = net.state_dict()
        if self.settings.compact and not resumable:
            model = {k: v.half() if v.dtype == torch.float32 else v for k, v in model.items()}
        made = {
            "kind": self.kind,
            "model": model,
            "config_text": self.config_text,
            "fingerprints": self.fingerprints,
            "meta": {
                "step": self.iter,
                "nfe": self.nfe,
                "seed": self.settings.seed,
                "metrics": self.metrics,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                "torch": str(torch.__version__),
            },
        }
        if resumable and self.average is not None:
            made["ema"] = self.average.net.state_dict()
        if resumable:
            made["training"] = {
                "task": self._trained_state(),
                "updaters": {name: u.state_dict() for name, u in self.updaters.items()},
                "average": None if self.average is None else self.average.state_dict(),
                "batches": self.train_loop.batches,
                "best": self.best,
            }
        return made

    def resume_newest(self) -> None:
        """Continue from the newest checkpoint of the work directory, exactly."""
        files = ckpt.step_files(self.folder)
        if not files:
            return
        saved = ckpt.load(files[-1], self.kind)
        for what, value in self.fingerprints.items():
            if saved["fingerprints"].get(what) != value:
                raise UserError(
                    f"{files[-1]} was trained on {what} {saved['fingerprints'].get(what)}, not "
                    f"{value}: restore that {what}, or choose another --work-dir"
                )
        training = saved["training"]
        ckpt.check_fits(self._trained_state(), training["task"], str(files[-1]))
        self.task.load_state_dict(training["task"], strict=False)  # the teacher is not in it
        for name, updater in self.updaters.items():
            updater.load_state_dict(training["updaters"][name])
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        self.train_loop._iter = saved["meta"]["step"]
        self.train_loop.batches = training["batches"]
        self.nfe, self.metrics = saved["meta"]["nfe"], saved["meta"]["metrics"]
        self.best = training["best"]

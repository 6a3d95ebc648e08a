"""Steps through a task's updates, with exact resume and hooks around each step.

From mmengine come the hooks' interface, the curves' back ends and the averages over processes.
Ours are the update of several nets by name, randomness that depends on seed and place alone, and
checkpoints that are written atomically and read without unpickling.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import get_priority, set_random_seed
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from occdistill import checkpoint as ckpt
from occdistill import seeds
from occdistill.build.schema import resolve
from occdistill.build.settings import Settings
from occdistill.distill.base import Task, take_step
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.runtime.machine import loaders
from occdistill.store import atomic, reading
from occdistill.training.ahead import draws_of
from occdistill.training.batches import EndlessBatches
from occdistill.training.exchange import Exchange
from occdistill.training.updates import MovingAverage, Updater

WITHOUT_EFFECT = frozenset(  # settings that a resumed run may change without a word
    ("log_interval", "checkpoint_interval", "val_interval", "val_clips")
    + ("keep", "compact", "hand_over", "workers")
)


class Trainer:
    """Trains a task: nets by name, a plan of updates, a loss for each.

    Args:
        task: what is trained.
        dataset: map-style dataset of dicts of tensors.
        make_batch: what the task's losses take, of collated items and their random streams.
        settings: how long and how fast.
        kind: of the checkpoints: `vae`, `light`, `lidar_encoder`, `teacher` or `distill`.
        work_dir: where checkpoints and logs go.
        config: kept with the weights; its `vis_backends` draw the curves.
        fingerprints: of the data and frozen weights it trains on.
        hooks: mmengine's, called with this trainer, those of higher priority first.
        resume: go on from the newest `iter_*.pth` in `work_dir`, if there is one.
        asked: keys of the config, dotted, that the command line set: a resumed run may differ there.
        device: this process's own.

    Raises:
        UserError: gradients can't be accumulated for this task.

    Attributes:
        iter: steps done.
        batches: batches used so far.
        nfe: network evaluations spent on training, in clips, over all ranks.
        passes: the same with backward passes, see `Task`.
        spent: evaluations and passes of this rank that are not yet in these.
        metrics: of the last validation.
        best: mean IoU of the best one.
        stopped: whether a hook wants no further step.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        make_batch: Callable[[dict[str, Tensor], Draws], Any],
        settings: Settings,
        *,
        kind: str,
        work_dir: str | Path,
        config: Config | None = None,
        fingerprints: Mapping[str, str] | None = None,
        hooks: Sequence[Hook] = (),
        resume: bool = False,
        asked: Collection[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        if settings.accumulate > 1 and task.whole_batch:
            raise UserError(
                f"{type(task).__name__} compares the samples of its whole batch, which can't be "
                f"taken in {settings.accumulate} parts: set accumulate=1 and a smaller batch_size"
            )
        self.device, self.rank, self.world_size = torch.device(device), get_rank(), get_world_size()
        set_random_seed(seeds.number(settings.seed))
        self.task, self.dataset, self.make_batch = task.to(self.device), dataset, make_batch
        self.settings, self.kind, self.config = settings, kind, config or Config()
        self.fingerprints, self.resume, self.asked = dict(fingerprints or {}), resume, asked
        self.folder = Path(work_dir)
        self.iter = self.batches = self.nfe = self.passes = 0
        self.spent = [0, 0]
        self.metrics, self.best, self.stopped = {}, -math.inf, False
        self.config_text = config.pretty_text if config else ""
        if settings.batch_size > len(dataset):
            raise UserError(
                f"a batch of {settings.batch_size} is more than the {len(dataset)} samples there "
                "are: set a smaller batch_size"
            )
        self.hooks = sorted(hooks, key=lambda hook: get_priority(hook.priority))
        self.updaters = {name: self._updater(name) for name in task.nets}
        self.visualizer = self._visualizer()

    def _updater(self, name: str) -> Updater:
        s = self.settings
        return Updater(
            self.task.nets[name],
            s.rate(name),
            max(1, sum(self.task.plan(step).count(name) for step in range(s.iterations))),
            s.final_lr,
            s.weight_decay,
            s.warmup,
            s.clip,
            loss_scaling=self.half,
            loss_scale=s.loss_scale,
            ema=s.ema if name == self.task.main else 0.0,
        )

    def _visualizer(self) -> Visualizer:
        """Curves in `scalars.json`, for the tools, and where the config wants them."""
        wanted = self.config.get("vis_backends", [dict(type="TensorboardVisBackend")])
        place = self.folder / time.strftime("%Y%m%d_%H%M%S")
        backends = [dict(type="LocalVisBackend"), *(dict(backend.items()) for backend in wanted)]
        try:
            visualizer = Visualizer(vis_backends=backends, save_dir=str(place))
            if self.config and self.rank == 0:
                visualizer.add_config(self.config)
                name = Path(self.config.filename or "config.py").name
                with atomic(self.folder / name) as part:
                    self.config.dump(part)
        except (KeyError, TypeError, ValueError, ImportError) as error:
            raise UserError(f"the config's vis_backends can't be used: {error}") from error
        return visualizer

    # What hooks that were written for mmengine's Runner look for.

    @property
    def model(self) -> Task:
        """The task."""
        return self.task

    @property
    def max_iters(self) -> int:
        """Steps to do."""
        return self.settings.iterations

    @property
    def epoch(self) -> int:
        """Times that every sample was seen."""
        return self.batches * self.settings.batch_size // len(self.dataset)

    @property
    def work_dir(self) -> str:
        """Where checkpoints and logs go."""
        return str(self.folder)

    def call_hook(self, moment: str, **arguments: Any) -> None:
        """Call `hook.<moment>(trainer, **arguments)` of all hooks."""
        for hook in self.hooks:
            getattr(hook, moment)(self, **arguments)

    # Training.

    def train(self) -> Task:
        """Train from where the run stands to the last step; returns the task."""
        self.call_hook("before_run")
        if self.resume:
            self.resume_newest()
        batches = self._load()
        self.call_hook("before_train")
        while self.iter < self.max_iters and not self.stopped:
            self.call_hook("before_train_iter", batch_idx=self.iter, data_batch=None)
            logs = self._step(batches)
            self.iter += 1
            self.call_hook(
                "after_train_iter", batch_idx=self.iter - 1, data_batch=None, outputs=logs
            )
        self.call_hook("after_train")
        self.call_hook("after_run")
        self.visualizer.close()
        return self.task

    def _load(self) -> Iterator:
        """Endless batches from the next one on, in parts, as the task wants them."""
        s, exchange = self.settings, None
        if s.balance:
            exchange = Exchange(self.task, s.balance, s.seed, s.batch_size, self.world_size)
        order = EndlessBatches(
            len(self.dataset),
            s.batch_size,
            s.seed,
            self.batches,
            self.rank,
            self.world_size,
            s.accumulate,
            exchange,
        )
        workers = loaders(self.device, self.settings.workers)
        loader = DataLoader(
            self.dataset,
            batch_sampler=order,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        steps = (name for step in count(self.iter) for name, _ in self.task.batches(step))
        parts = range(self.settings.accumulate)
        coming = (
            (name, order.noise_keys(number, part))
            for number, name in enumerate(steps, self.batches)
            for part in parts
        )
        first = self.batches * len(parts)
        for place, (items, draws) in enumerate(zip(loader, draws_of(coming, self.device)), first):
            number, part = divmod(place, len(parts))
            # for layers that draw by themselves, such as dropout
            torch.manual_seed(seeds.number(*order.noise_keys(number, part)[0]))
            self.batches = number + 1
            yield self._batch(items, draws)

    def _batch(self, items: Mapping[str, Tensor], draws: Draws) -> Any:
        moved = {key: value.to(self.device, non_blocking=True) for key, value in items.items()}
        return self.make_batch(moved, draws)

    def _step(self, batches: Iterator) -> dict[str, Tensor]:
        """One step; `{"net/scalar": mean over the net's updates}`."""
        logs: dict[str, list[Tensor]] = defaultdict(list)
        before = self.task.evaluations, self.task.passes
        updates = take_step(
            self.task, batches, self.updaters, self.iter, self.autocast, self.settings.accumulate
        )
        for name, scalars in updates:
            for key, value in scalars.items():
                logs[f"{name}/{key}"].append(value)
        now = self.task.evaluations, self.task.passes
        self.spent = [s + n - b for s, n, b in zip(self.spent, now, before)]
        return {key: torch.stack(values).float().mean() for key, values in logs.items()}

    @property
    def half(self) -> bool:
        """Whether to compute in half precision."""
        return self.settings.amp and self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Half precision where it is used.

        Its cache of cast weights stays off: a net that is run without gradients first would find
        its weights cached without them, and lose the second run's gradients, in silence
        (pytorch issues 112583 and 158232).
        """
        return torch.autocast(
            self.device.type, torch.float16, enabled=self.half, cache_enabled=False
        )

    @torch.no_grad()
    def first_losses(self) -> dict[str, Tensor]:
        """Losses of the main net before any update, on samples spread over the data set."""
        size, count = len(self.dataset), self.settings.batch_size
        chosen = [i * size // count for i in range(self.rank, count, self.world_size)]
        items = default_collate([self.dataset[i] for i in chosen])
        batch, main = self._batch(items, Draws(chosen, self.device)), self.task.main
        with self.autocast():
            loss = self.task.losses(main, batch, 0)
        logs = {"loss": loss.total, **loss.logs}
        return {f"{main}/{key}": value.detach().float() for key, value in logs.items()}

    def write(self, scalars: Mapping[str, float], step: int | None = None) -> None:
        """Add points to the curves, at the number of main-net updates unless told otherwise."""
        step = self.updaters[self.task.main].count if step is None else step
        self.visualizer.add_scalars(dict(scalars), step=step)  # on rank 0

    # State.

    @property
    def average(self) -> MovingAverage | None:
        """Of the main net's weights."""
        return self.updaters[self.task.main].average

    @property
    def best_net(self) -> nn.Module:
        """The main net with the weights that will be used later."""
        return self.task.nets[self.task.main] if self.average is None else self.average.net

    @property
    def weights_file(self) -> Path:
        """Where the weights are at the end, without what only a resume needs."""
        return self.folder / f"{self.task.main}.pth"

    def _trained_state(self) -> dict[str, Tensor]:
        """State of the task without its frozen teacher."""
        teacher = self.task.teacher
        known = () if teacher is None else teacher.state_dict(keep_vars=True).values()
        known = {id(value) for value in known}
        state = self.task.state_dict(keep_vars=True)
        return {k: v.detach() for k, v in state.items() if id(v) not in known}

    def checkpoint(self, resumable: bool = False) -> dict[str, Any]:
        """The trainer's state as a checkpoint; see `occdistill.checkpoint`.

        One that isn't resumable holds the averaged weights alone, as its model.
        """
        net = self.task.nets[self.task.main] if resumable else self.best_net
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
                "passes": self.passes,
                "seed": self.settings.seed,
                "metrics": self.metrics,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                "torch": str(torch.__version__),
                "tf32": self.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32,
                **self.task.how_to_use(),
            },
        }
        if resumable and self.average is not None:
            made["ema"] = self.average.net.state_dict()
        if resumable:
            made["training"] = {
                "task": self._trained_state(),
                "updaters": {name: u.state_dict() for name, u in self.updaters.items()},
                "average": None if self.average is None else self.average.state_dict(),
                "declared": self.declared,
                "batches": self.batches,
                "best": self.best,
            }
        return made

    @property
    def declared(self) -> dict[str, str]:
        """What the updates depend on besides data and weights: by key of the config, as text."""
        of_settings = {k: v for k, v in vars(self.settings).items() if k not in WITHOUT_EFFECT}
        found = flattened(of_settings, f"train_{self.kind}.")
        if self.kind == "distill":
            given = {k: self.config[k] for k in ("method", "guidance") if k in self.config}
            found |= flattened(given)
        return found

    def resume_newest(self) -> None:
        """Continue from the newest checkpoint of the work directory that is whole, exactly.

        Raises:
            UserError: it was trained on other data, with other frozen weights, or with other
                settings than the config's, which nobody asked for.
        """
        found = ckpt.newest(self.folder, self.kind)
        if found is None:
            return
        path, saved = found
        for what, value in self.fingerprints.items():
            if saved["fingerprints"].get(what) != value:
                raise UserError(
                    f"{path} was trained on {what} {saved['fingerprints'].get(what)}, not "
                    f"{value}: restore that {what}, or choose another --work-dir"
                )
        with reading(path, "checkpoint to go on from", "use an earlier one, or start anew"):
            self._take_over(saved, str(path))

    def _take_over(self, saved: Mapping[str, Any], source: str) -> None:
        training, meta = saved["training"], saved["meta"]
        ckpt.check_fits(self._trained_state(), training["task"], source)
        self._compare(training.get("declared", self.declared), source)
        self.task.load_state_dict(training["task"], strict=False)  # the teacher is not in it
        for name, updater in self.updaters.items():
            updater.load_state_dict(training["updaters"][name])
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        self.iter, self.batches = meta["step"], training["batches"]
        self.nfe, self.metrics, self.best = meta["nfe"], meta["metrics"], training["best"]
        self.passes = meta.get("passes", math.nan)  # older files don't say

    def _compare(self, before: Mapping[str, str], source: str) -> None:
        """Refuse to go on with other settings, unless the command line asks for them."""
        now, absent = self.declared, "nothing"
        differ = [
            key
            for key in sorted(now.keys() | before.keys())
            if now.get(key) != before.get(key) and not _covers(self.asked, key)
        ]
        if differ:
            shown = "; ".join(
                f"{key} is {now.get(key, absent)}, and was {before.get(key, absent)}"
                for key in differ
            )
            raise UserError(
                f"{source} was made with other settings ({shown}): put them back, or ask for them "
                f"with --cfg-options {differ[0]}=…"
            )


def _covers(asked: Collection[str], key: str) -> bool:
    """Whether one of the keys is `key`, lies below it, or holds it."""
    return any(f"{key}.".startswith(f"{a}.") or f"{a}.".startswith(f"{key}.") for a in asked)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, as text; a class by its name, a list as the tuple it means."""
    found = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            value = resolve(value) if key == "type" else value
            value = tuple(value) if isinstance(value, list) else value
            found[f"{prefix}{key}"] = getattr(value, "__name__", repr(value))
    return found

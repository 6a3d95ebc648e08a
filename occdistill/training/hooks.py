"""What happens around a step: curves and the progress bar, validation, checkpoints."""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from mmengine.dist import all_reduce, broadcast
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from tqdm import tqdm

from occdistill import checkpoint as ckpt
from occdistill.errors import Diverged, UserError
from occdistill.store import remove_unfinished

if TYPE_CHECKING:
    from occdistill.training.trainer import Trainer


class Curves(Hook):
    """Progress bar with the time left, and scalars averaged over steps and ranks."""

    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = defaultdict(list)

    def before_train(self, runner: Trainer) -> None:
        """Open the bar, and write where the curves begin: MFD's distance, for one, has risen by the
        first update of the student, as the auxiliary's come before it.
        """
        tty = os.isatty(2)
        self.bar = tqdm(
            desc=runner.kind,
            total=runner.max_iters,
            initial=runner.iter,
            disable=runner.rank > 0,
            mininterval=0.5 if tty else 20.0,
            dynamic_ncols=tty,
        )
        if runner.iter == 0:
            self.sums.update({key: [value] for key, value in runner.first_losses().items()})
            self._write(runner)

    def after_train_iter(self, runner: Trainer, batch_idx: int, data_batch=None, outputs=None):
        """Collect, and write at the interval."""
        self.bar.update()
        for key, value in outputs.items():
            self.sums[key].append(value)
        s = runner.settings  # nothing may be pending where a run is resumed
        intervals = (s.log_interval, s.val_interval, s.checkpoint_interval)
        if any(runner.iter % n == 0 for n in intervals) or runner.iter == runner.max_iters:
            self._write(runner)

    def _write(self, runner: Trainer) -> None:
        names = sorted(self.sums)
        means = torch.stack([torch.stack(self.sums[name]).mean() for name in names])
        spent = torch.tensor(runner.spent, device=runner.device)
        all_reduce(means, "mean")
        all_reduce(spent, "sum")
        evaluations, passes = spent.tolist()
        runner.nfe, runner.passes = runner.nfe + evaluations, runner.passes + passes
        runner.spent = [0, 0]
        scalars = dict(zip(names, means.tolist()))
        self.sums.clear()
        for name, value in scalars.items():
            if name.endswith("/loss") and not math.isfinite(value):
                raise Diverged(
                    f"{name} became {value} at step {runner.iter}: lower the learning rate and "
                    "start again, or --resume from the last checkpoint"
                )
        for name, updater in runner.updaters.items():
            scalars[f"{name}/lr"] = updater.rate(max(0, updater.count - 1))
        scalars["nfe"] = runner.nfe
        runner.write(scalars)
        self.bar.set_postfix_str(
            f"{runner.task.main} loss {scalars[f'{runner.task.main}/loss']:.4f}", refresh=False
        )

    def after_train(self, runner: Trainer) -> None:
        """Close the bar."""
        self.bar.close()


class Validation(Hook):
    """Validates on rank 0 at the start, every `val_interval` steps and at the end.

    The moving average is validated where there is one. A new best mean IoU is saved at once, as
    `best.pth`, without what only a resume needs.

    Args:
        validate: `net -> {"mIoU": ..., ...}`, higher is better.
    """

    priority = "NORMAL"

    def __init__(self, validate: Callable[[nn.Module], Mapping[str, float]]) -> None:
        self.validate = validate

    def before_train(self, runner: Trainer) -> None:
        """Where the curves begin; a resumed run has its values already."""
        if runner.iter == 0:
            self._validate(runner)

    def after_train_iter(self, runner: Trainer, batch_idx: int, data_batch=None, outputs=None):
        """Validate at the interval and at the end."""
        if validates(runner):
            self._validate(runner)

    def _validate(self, runner: Trainer) -> None:
        if runner.rank > 0:
            return
        net = runner.best_net
        training = net.training
        net.eval()
        with torch.no_grad():
            metrics = runner.metrics = dict(self.validate(net))
        net.train(training)
        runner.write({f"val/{key}": value for key, value in metrics.items()})
        runner.write({f"val_by_nfe/{key}": v for key, v in metrics.items()}, step=runner.nfe)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        tqdm.write(f"{runner.kind} after {runner.iter} steps: {shown}", file=sys.stderr)
        score = metrics.get("mIoU", -math.inf)
        if runner.iter and score > runner.best:
            runner.best = score
            ckpt.save(runner.folder / "best.pth", runner.checkpoint())


class Collapse(Hook):
    """Says when a student's samples no longer differ as its teacher's do, after each validation.

    A student starts from what one step of the teacher predicts, which hardly differs, so the first
    validation isn't judged, and a spread that still grows ends no training.

    Args:
        cause: the likeliest one.
        stop: end the training then; its checkpoint is kept.
    """

    priority = "BELOW_NORMAL"  # after the validation, before the checkpoints

    def __init__(self, cause: str, stop: bool = False) -> None:
        self.cause, self.stop, self.before = cause, stop, math.inf

    def before_train(self, runner: Trainer) -> None:
        """Where the spread was when this run began or was interrupted."""
        self.before = runner.metrics.get("spread", math.inf)

    def after_train_iter(self, runner: Trainer, batch_idx: int, data_batch=None, outputs=None):
        """Judge a new validation; the first rank's word counts for all."""
        if not validates(runner):
            return
        stop = torch.tensor(int(runner.rank == 0 and self._judge(runner)), device=runner.device)
        broadcast(stop)
        runner.stopped = bool(stop)

    def _judge(self, runner: Trainer) -> bool:
        """Say what the validation's `spread` and `teacher_spread` show; whether to stop."""
        spread, teacher = runner.metrics["spread"], runner.metrics["teacher_spread"]
        low, grows, self.before = spread < teacher / 2, spread > self.before, spread
        stop = low and self.stop and not grows
        if low:
            tqdm.write(
                f"{runner.kind} after {runner.iter} steps: the student's samples differ in "
                f"{spread:.2f} % of the filled voxels, the teacher's in {teacher:.2f} %: it has "
                f"collapsed if that doesn't grow. The likely cause: {self.cause}."
                + " Stopped."
                * stop,
                file=sys.stderr,
            )
        return stop


def validates(runner: Trainer) -> bool:
    """Whether this step, which is done, is followed by a validation."""
    return runner.iter % runner.settings.val_interval == 0 or runner.iter == runner.max_iters


class Checkpoints(Hook):
    """Files to resume from at the interval, the last `keep` of them; the weights at the end."""

    priority = "VERY_LOW"

    def before_train(self, runner: Trainer) -> None:
        """Remove what a kill in the middle of writing left behind."""
        if runner.rank == 0:
            remove_unfinished(runner.folder)

    def after_train_iter(self, runner: Trainer, batch_idx: int, data_batch=None, outputs=None):
        """Save at the interval and at the end."""
        last = runner.iter == runner.max_iters or runner.stopped
        if runner.rank > 0 or (runner.iter % runner.settings.checkpoint_interval and not last):
            return
        ckpt.save(runner.folder / f"iter_{runner.iter}.pth", runner.checkpoint(resumable=True))
        for old in ckpt.step_files(runner.folder)[: -runner.settings.keep]:
            old.unlink()

    def after_train(self, runner: Trainer) -> None:
        """Save what later steps of the chain need."""
        if runner.rank == 0:
            ckpt.save(runner.weights_file, runner.checkpoint())


def built(hooks: Iterable[Hook | Mapping]) -> list[Hook]:
    """A config's `custom_hooks`.

    Args:
        hooks: hooks, or `dict(type=…, priority=…, **arguments)`.

    Raises:
        UserError: a type that mmengine doesn't know, or arguments that it doesn't take.
    """
    made = []
    for hook in hooks:
        if isinstance(hook, Mapping):
            arguments = dict(hook.items())
            priority = arguments.pop("priority", None)
            try:
                hook = HOOKS.build(arguments)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"the config's custom_hooks can't be built: {error}") from error
            hook.priority = priority or hook.priority
        made.append(hook)
    return made

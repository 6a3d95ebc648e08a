"""From a config to trained weights where the next job looks for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook

from occdistill import checkpoint as ckpt
from occdistill.errors import UserError, out_of_memory
from occdistill.processes import joined
from occdistill.runtime.machine import tf32
from occdistill.store import check_folder
from occdistill.training.distill import method_name
from occdistill.training.hooks import Checkpoints, Curves, Validation, built
from occdistill.training.job import Job
from occdistill.training.memory import less_memory
from occdistill.training.trainer import Trainer


@dataclass
class Trained:
    """What a training leaves.

    Attributes:
        weights: their file.
        metrics: of the last validation.
        note: where they are, in words.
    """

    weights: Path
    metrics: dict[str, float]
    note: str


def train(
    config: Config,
    part: str,
    *,
    work_dir: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    seed: int | None = None,
    launcher: str = "none",
    hooks: Sequence[Hook] = (),
    asked: Collection[str] = (),
) -> Trained | None:
    """Train one part of a config to the end.

    Args:
        config: from `load_config`.
        part: `vae`, `light`, `lidar_encoder`, `teacher`, `plan` or `distill`: `train_<part>` of the config.
        work_dir: default: a folder for this part in the config's.
        resume: go on from the newest checkpoint in the work directory.
        device: `cpu`, `cuda` or `cuda:N`.
        seed: of weights, order and noise; default: the config's.
        launcher: `none`, or `pytorch` under torchrun.
        hooks: mmengine's, besides the config's `custom_hooks`.
        asked: keys of the config that this call sets: a resumed run may differ there, as in `seed`.

    Returns:
        What it left; None in all processes but the first.

    Raises:
        UserError: the config lacks what it takes, or the work directory holds a run and `resume`
            isn't set.
    """
    name = method_name(config).lower() if part == "distill" else part
    folder = Path(work_dir or Path(config.get("work_dir") or "work_dirs") / name)
    allowed = config.get("allow_tf32", False)
    with joined(device, launcher) as own_device, tf32(allowed):
        job = Job(config, part, own_device, seed)
        if ckpt.step_files(folder) and not resume:
            raise UserError(
                f"{folder} already holds a run ({ckpt.step_files(folder)[-1].name}): continue it "
                "with --resume, or choose another --work-dir"
            )
        check_folder(folder)
        made = import_module(f"occdistill.training.{part}").prepare(job)
        ours = [Curves(), Validation(made.validate), Checkpoints(), *made.hooks]
        trainer = Trainer(
            made.task,
            made.dataset,
            made.make_batch,
            job.settings,
            kind=part,
            work_dir=folder,
            config=config,
            fingerprints=made.fingerprints,
            hooks=[*ours, *built(config.get("custom_hooks", ())), *hooks],
            resume=resume,
            asked=[*asked, *([f"train_{part}.seed"] if seed is not None else [])],
            device=own_device,
        )
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            whole, ranks = made.task.whole_batch, trainer.world_size
            raise UserError(less_memory(config, part, job.settings, whole, ranks)) from error
        if trainer.rank > 0:
            return None
        best = folder / "best.pth"  # absent where no validation beat the start
        wanted = job.settings.hand_over == "best" and best.is_file()
        weights = best if wanted else trainer.weights_file
        note = f"weights: {weights}" + _hand_over(weights, config.get(f"{part}_checkpoint"))
        return Trained(weights, trainer.metrics, note)


def _hand_over(weights: Path, place: str | None) -> str:
    """Put the weights where the config's next job looks, unless others are there; says which."""
    if not place or Path(place).resolve() == weights.resolve():
        return ""
    state = ckpt.load(weights)
    if not Path(place).exists():
        ckpt.save(place, state)
        return f"\nand, where the next job looks: {place}"
    if ckpt.fingerprint(ckpt.load(place)["model"]) == ckpt.fingerprint(state["model"]):
        return ""
    return f"\n{place} was there before and is kept; copy the new weights over it to use them"

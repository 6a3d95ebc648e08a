"""The lines of a results table: forecasters, baselines and the ceiling, behind one call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from occdistill.data.occ3d import Grid
from occdistill.data.poses import extrapolate, trajectory_from_poses
from occdistill.evaluation import baselines
from occdistill.evaluation.shared import Carried, PastLatents
from occdistill.evaluation.views import Clip
from occdistill.flow.path import Draws
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.planner import Planner

PLANNED = 1  # the use of a plan's noise


@dataclass
class ClipBatch:
    """Clips as the data set gives them, on the evaluation's device, and what rows share.

    Attributes:
        past: uint8 `(B, P, X, Y, Z)`.
        future: uint8 `(B, F, X, Y, Z)`.
        poses: `(B, P + F, 4, 4)`, frame to newest past ego frame.
        trajectory: `(B, P + F, 2)` metres.
        index: clip numbers `(B,)`.
        seed: of the evaluation.
        masks: `mask_lidar` and `mask_camera`, where the data set has them.
        shared: what one row or measure computes and others reuse.
        frames: names of the past keyframes, int64 `(B, P)`, the same in every clip that shows them;
            None where nobody named them.
    """

    past: Tensor
    future: Tensor
    poses: Tensor
    trajectory: Tensor
    index: Tensor
    seed: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)
    frames: Tensor | None = None

    @classmethod
    def of(cls, item: dict[str, Tensor], device: str, seed: int) -> ClipBatch:
        """From a collated item of a data set or of `ForRows`."""
        item = {k: v.to(device, non_blocking=True) for k, v in item.items()}
        shared = {k: v for k, v in item.items() if isinstance(k, tuple)}
        masks = {k: item[k] for k in ("mask_lidar", "mask_camera") if k in item}
        names = ("past", "future", "poses", "trajectory", "index")
        known = dict(seed=seed, masks=masks, shared=shared, frames=item.get("frames"))
        return cls(*(item[n] for n in names), **known)

    def noise(self, shape: Sequence[int], sample: int = 0, *use: int) -> Tensor:
        """Standard normal `(B, *shape)`: the same for a clip in every row, batch size and order.

        Args:
            shape: of one clip.
            sample: number of the future, for several futures of a clip.
            *use: what else it is for, if not for a forecast's latents.
        """
        keys = [(self.seed, int(index), sample, *use) for index in self.index]
        return Draws(keys, self.past.device).normal(*shape)

    def rule(
        self, grid: Grid, future: int, extrapolated: bool = False, carry: bool = False
    ) -> Tensor:
        """The forecast without a model, uint8 `(B, F, X, Y, Z)`; see `baselines.ego_warp`."""
        key = ("rule", extrapolated, carry)
        if key not in self.shared:
            options = (future, grid, extrapolated, carry)
            self.shared[key] = baselines.ego_warp(self.past, self.poses, *options)
        return self.shared[key]

    def clip(self, b: int) -> Clip:
        """Clip `b` for the views."""
        masks = {name: mask[b] for name, mask in self.masks.items()}
        return Clip(self.future[b], self.past[b, -1], **masks)


@dataclass
class Row:
    """One line of the table: a name, a way to predict, and what a reader must know about it.

    Attributes:
        model: name without NFE.
        predict: `ClipBatch` to uint8 voxels `(B, F, X, Y, Z)`.
        nfe: network evaluations per forecast; None: no network.
        guidance: guidance scale; None: unguided.
        conditioning: `none`, `hist+1`, `pred` or `gt`: what is known of the future ego motion.
        facts: of `report.FACTS`, those that apply.
        forecaster: what to time, if anything.
        draw: like `predict`, but future number s of several.
        plan: where the ego is taken to go in future number s, poses `(B, F, 4, 4)` to the newest
            past frame; None where that is given, or not asked.
        own_past: whether it reads its past itself, whatever the batch's is.
        needs: what a loader's worker makes of each clip for it.
    """

    model: str
    predict: Callable[[ClipBatch], Tensor]
    nfe: int | None = None
    guidance: float | None = None
    conditioning: str = "none"
    facts: dict[str, Any] = field(default_factory=dict)
    forecaster: Forecaster | None = None
    draw: Callable[[ClipBatch, int], Tensor] | None = None
    plan: Callable[[ClipBatch, int], Tensor] | None = None
    own_past: bool = False
    needs: tuple[Carried, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a table: `teacher@10`."""
        return self.model if self.nfe is None else f"{self.model}@{self.nfe}"


def forecast_row(
    model: str, forecaster: Forecaster, share: PastLatents | None = None, **facts: Any
) -> Row:
    """A row of a `Forecaster`; rows with the same `share` have the same encoder, and encode each
    keyframe once.
    """
    codec = forecaster.codec
    carried = Carried(codec.grid, codec.future, codec.conditioning != "gt")

    def draw(batch: ClipBatch, sample: int = 0) -> Tensor:
        condition: Condition | None = batch.shared.get(share)
        if condition is None:
            known, rule = (batch.past, batch.poses, batch.trajectory), None
            if codec.carry:
                rule = batch.rule(codec.grid, codec.future, carried.extrapolated, carry=True)
            condition = forecaster.condition(*known, _latents(batch, forecaster, share), rule)
            if share is not None:
                batch.shared[share] = condition
        shape = (codec.future, *codec.vae.latent_shape)
        return forecaster.decode(forecaster.generate(condition, batch.noise(shape, sample)))

    return Row(
        model,
        draw,
        forecaster.nfe,
        forecaster.guidance,
        codec.conditioning_class,
        {
            "align": list(codec.align),
            "carry": codec.carry,
            "temperature": forecaster.temperature,
            "dtype": str(forecaster.dtype).removeprefix("torch."),
            "tf32": forecaster.tf32,
            **facts,
        },
        forecaster,
        draw,
        needs=(carried,) if codec.carry else (),
    )


def _latents(batch: ClipBatch, forecaster: Forecaster, share: PastLatents | None) -> Tensor:
    """The past's, once for all rows and futures that share them."""
    key = (share or forecaster, "latents")
    if key not in batch.shared:
        named = share is not None and batch.frames is not None
        batch.shared[key] = (
            share.of(forecaster.encode, batch.past, batch.frames)
            if named
            else forecaster.frames(batch.past)
        )
    return batch.shared[key]


def planned_row(
    model: str,
    forecaster: Forecaster,
    planner: Planner,
    share: PastLatents | None = None,
    **facts: Any,
) -> Row:
    """A row of a `Forecaster` that is made for a given plan, with the planner's: each future after a
    plan of its own, class `pred`. `share` as for `forecast_row`.
    """

    def plan(batch: ClipBatch, sample: int = 0) -> Tensor:
        known = batch.poses[:, : batch.past.shape[1]]
        return planner(known, batch.noise(planner.shape, sample, PLANNED))

    def draw(batch: ClipBatch, sample: int = 0) -> Tensor:
        latents = _latents(batch, forecaster, share)
        poses = torch.cat([batch.poses[:, : batch.past.shape[1]], plan(batch, sample)], 1)
        steps = trajectory_from_poses(poses)
        condition = forecaster.condition(batch.past, poses, steps, latents)
        shape = (forecaster.codec.future, *forecaster.codec.vae.latent_shape)
        return forecaster.decode(forecaster.generate(condition, batch.noise(shape, sample)))

    row = forecast_row(f"{model}, planned", forecaster, share, planner=planner.mark, **facts)
    other = dict(conditioning="pred", forecaster=None, needs=())
    return replace(row, predict=draw, draw=draw, plan=plan, **other)


def copy_last_row(future: int) -> Row:
    """The newest frame, repeated."""
    return Row("copy-last", lambda batch: baselines.copy_last(batch.past, future))


def rule_name(extrapolated: bool = False, carry: bool = False) -> str:
    """What the row of `ego_warp_row` is called."""
    return "ego-warp" + ", extrapolated" * extrapolated + ", objects carried" * carry


def ego_warp_row(grid: Grid, future: int, extrapolated: bool = False, carry: bool = False) -> Row:
    """The newest frame, moved with the true (or the extrapolated) ego motion; with `carry` its
    objects move on too.
    """

    def goes_on(batch: ClipBatch, sample: int) -> Tensor:
        return extrapolate(batch.poses[:, : batch.past.shape[1]], future)

    return Row(
        rule_name(extrapolated, carry),
        lambda batch: batch.rule(grid, future, extrapolated, carry),
        conditioning="none" if extrapolated else "gt",
        plan=goes_on if extrapolated else None,
        needs=(Carried(grid, future, extrapolated),) if carry else (),
    )


def ceiling_row(codec: Codec, **facts: Any) -> Row:
    """The truth through the autoencoder; it is no forecast, so its conditioning is `truth`."""
    row = Row("VAE ceiling", lambda b: baselines.vae_ceiling(codec, b.future), facts=facts)
    row.conditioning = "truth"
    return row

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
    """

    past: Tensor
    future: Tensor
    poses: Tensor
    trajectory: Tensor
    index: Tensor
    seed: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, item: dict[str, Tensor], device: str, seed: int) -> ClipBatch:
        """From a collated data set item."""
        item = {k: v.to(device) if torch.is_tensor(v) else v for k, v in item.items()}
        masks = {k: v for k, v in item.items() if k.startswith("mask_")}
        names = ("past", "future", "poses", "trajectory", "index")
        return cls(*(item[n] for n in names), seed=seed, masks=masks)

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

    @property
    def name(self) -> str:
        """Unique in a table: `teacher@10`."""
        return self.model if self.nfe is None else f"{self.model}@{self.nfe}"


def forecast_row(model: str, forecaster: Forecaster, share: Hashable = None, **facts: Any) -> Row:
    """A row of a `Forecaster`; rows with the same `share` encode the past once per batch."""

    def draw(batch: ClipBatch, sample: int = 0) -> Tensor:
        condition: Condition | None = batch.shared.get(share)
        if condition is None:
            condition = forecaster.condition(batch.past, batch.poses, batch.trajectory)
            if share is not None:
                batch.shared[share] = condition
        shape = (forecaster.codec.future, *forecaster.codec.vae.latent_shape)
        return forecaster.decode(forecaster.generate(condition, batch.noise(shape, sample)))

    codec = forecaster.codec
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
            **facts,
        },
        forecaster,
        draw,
    )


def planned_row(
    model: str, forecaster: Forecaster, planner: Planner, share: Hashable = None, **facts: Any
) -> Row:
    """A row of a `Forecaster` that is made for a given plan, with the planner's: each future after a
    plan of its own, class `pred`. `share` as for `forecast_row`, whose latents of the past it takes.
    """

    def plan(batch: ClipBatch, sample: int = 0) -> Tensor:
        known = batch.poses[:, : batch.past.shape[1]]
        return planner(known, batch.noise(planner.shape, sample, PLANNED))

    def draw(batch: ClipBatch, sample: int = 0) -> Tensor:
        if (share, "frames") not in batch.shared:
            known = batch.shared.get(share)
            batch.shared[share, "frames"] = (
                forecaster.frames(batch.past) if known is None else known.past
            )
        latents = batch.shared[share, "frames"]
        poses = torch.cat([batch.poses[:, : batch.past.shape[1]], plan(batch, sample)], 1)
        steps = trajectory_from_poses(poses)
        condition = forecaster.condition(batch.past, poses, steps, latents)
        shape = (forecaster.codec.future, *forecaster.codec.vae.latent_shape)
        return forecaster.decode(forecaster.generate(condition, batch.noise(shape, sample)))

    row = forecast_row(f"{model}, planned", forecaster, share, planner=planner.mark, **facts)
    return replace(row, predict=draw, draw=draw, plan=plan, conditioning="pred", forecaster=None)


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
    )


def ceiling_row(codec: Codec, **facts: Any) -> Row:
    """The truth through the autoencoder; it is no forecast, so its conditioning is `truth`."""
    row = Row("VAE ceiling", lambda b: baselines.vae_ceiling(codec, b.future), facts=facts)
    row.conditioning = "truth"
    return row

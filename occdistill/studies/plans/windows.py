"""Windows of drives: what was done, what was done then, and what the map said of the way ahead."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occdistill.data.plans import places, steps_along, windows
from occdistill.distill.base import Batch
from occdistill.flow.networks.plan import PlanField, motion
from occdistill.store import read_npz, write_npz
from occdistill.studies.toy import SharedDraws
from occdistill.world.forks import forks_ahead
from occdistill.world.motion import read_folder
from occdistill.world.simulate import drives

PAST, FUTURE = 3, 6  # steps
REACH = 40.0  # metres to the end of a lane from which it counts as near


@dataclass
class Plans:
    """Windows of drives.

    Attributes:
        past: steps `(N, 3, 3)`.
        plan: the steps that followed, `(N, 6, 3)`.
        sight: what the map says, `(N, 5)`: how near the end of the lane is, from 0 to 1; whether one
            can go on from there to the left, straight on, to the right; 1 where there is a map.
            All 0 where there is none.
        town: `(N,)`, towns or scenes by number.
    """

    past: Tensor
    plan: Tensor
    sight: Tensor
    town: Tensor

    @property
    def true(self) -> Tensor:
        """Where the plans lead, `(N, 6, 3)`."""
        return places(self.plan)

    @property
    def before_junction(self) -> Tensor:
        """Windows `(N,)` from which a car that moves reaches, as fast as it came, a place with two or
        more ways on. Nothing that happened later is asked.
        """
        step = self.past[:, -1, :2].norm(dim=-1)
        left = REACH * (1 - self.sight[:, 0])
        near = (self.sight[:, 0] > 0) & (left < FUTURE * step)
        return near & (step > 0.5) & (self.sight[:, 1:4].sum(1) >= 2)

    @cached_property
    def junctions(self) -> Tensor:
        """Numbers of the windows `before_junction`."""
        return self.before_junction.nonzero()[:, 0]

    @property
    def condition(self):
        """The windows' condition."""
        return motion(self.past, self.sight[..., None, None])

    def __add__(self, other: Plans) -> Plans:
        parts = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Plans(*(torch.cat(part) for part in parts))

    def __getitem__(self, which: Tensor) -> Plans:
        return Plans(*(getattr(self, f.name)[which] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.past)

    @staticmethod
    def of_world(split: str, towns: int, seed: int = 0, stride: int = 1) -> Plans:
        """Windows of everybody's drives about the first `towns` towns of a split."""
        parts = []
        for n in range(towns):
            town, tracks = drives(seed, split, n)
            for track, ahead in zip(tracks, forks_ahead(town, tracks)):
                past, plan = windows(steps_along(track), PAST, FUTURE, stride)
                now = PAST + stride * np.arange(len(past))
                parts.append((past, plan, _sight(ahead[now]), torch.full((len(past),), n)))
        return Plans(*(torch.cat(part) for part in zip(*parts)))

    @staticmethod
    def recorded(folder: str | Path) -> Plans:
        """Windows of the ego's drives in recorded scenes, see `world.motion.read_folder`; without
        a map.
        """
        parts = []
        for n, scene in enumerate(read_folder(folder)):
            past, plan = windows(steps_along(scene.keyframes().ego), PAST, FUTURE)
            parts.append((past, plan, torch.zeros(len(past), 5), torch.full((len(past),), n)))
        return Plans(*(torch.cat(part) for part in zip(*parts)))

    def save(self, path: Path) -> None:
        """Write all to an npz."""
        write_npz(path, {f.name: getattr(self, f.name).numpy() for f in fields(self)})

    @staticmethod
    def load(path: Path) -> Plans:
        """Undo `save`."""
        arrays = read_npz(path, [f.name for f in fields(Plans)])
        return Plans(*(torch.from_numpy(array) for array in arrays.values()))

    def batch(self, field: PlanField, count: int, generator: torch.Generator) -> Batch:
        """`count` random windows as a flow or method takes them.

        A third is from before junctions, a third from everywhere, and a third from everywhere with
        the map hidden. What is drawn more often is so for what is known: no future is.
        """
        which = torch.randint(len(self), (count,), generator=generator)
        third, junctions = count // 3, self.junctions
        if len(junctions):
            which[:third] = junctions[which[:third] % len(junctions)]
        some = self[which]
        some.sight[-third:] = 0.0
        draws = SharedDraws(count, generator)
        return Batch(some.condition, draws, field.scaled(some.plan, some.past))

    def some(self, count: int) -> Plans:
        """`count` windows, spread evenly, or all where there are no more."""
        return self[torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()]


def _sight(ahead: np.ndarray) -> Tensor:
    """`Plans.sight` of what `forks_ahead` says `(N, 4)`."""
    near = (1 - ahead[:, :1] / REACH).clip(0, 1)
    return torch.from_numpy(np.hstack([near, ahead[:, 1:], np.ones_like(near)])).float()

"""Plans of the ego car from what it did, several of each clip, for forecasts that nobody gives one."""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.data.plans import poses_of, steps_between
from occdistill.errors import UserError
from occdistill.flow.networks.plan import PlanField, motion
from occdistill.flow.solver import sample


class Planner:
    """A frozen flow over plans as a function of past poses: `p(plan | past)`, sampled.

    Args:
        field: a teacher's or a student's; of the motion alone.
        nfe: evaluations of it per plan.
        renoise: see `solver.sample`.
        mark: fingerprint of its weights.
        device: where it runs; the network is moved there.

    Attributes:
        past: poses that it is given, P.
        shape: of a plan's noise, `(F, 3, 1, 1)`.

    Raises:
        UserError: a field that reads the latents, too.
    """

    def __init__(
        self,
        field: PlanField,
        nfe: int = 1,
        renoise: bool = False,
        mark: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        if field.look is not None:
            raise UserError("a planner is given the motion alone: its network must have scene=None")
        self.field, self.nfe, self.mark = field.to(device).eval(), nfe, mark
        self.renoise = 1.0 if renoise else None
        self.past, self.shape = field.steps + 1, (field.future, 3, 1, 1)

    def __repr__(self) -> str:
        return (
            f"Planner({self.past} past → {self.field.future} future poses; {self.nfe} evaluations)"
        )

    @torch.no_grad()
    def __call__(self, poses: Tensor, noise: Tensor) -> Tensor:
        """Where the ego may go.

        Args:
            poses: past frame to any fixed one, `(B, >= P, 4, 4)`, the newest last; 0.5 s apart.
            noise: standard normal `(B, *shape)`: another noise, another plan.

        Returns:
            Future frame to the newest past one, `(B, F, 4, 4)`.

        Raises:
            ValueError: fewer poses.
        """
        if poses.shape[1] < self.past:
            raise ValueError(f"a plan takes {self.past} past poses, and {poses.shape[1]} are given")
        known = next(self.field.buffers())
        past = steps_between(poses[:, -self.past :]).to(known)
        x = sample(self.field, noise.to(known), motion(past), self.nfe, renoise=self.renoise)
        return poses_of(self.field.plans(x, past)).to(poses)

"""What every distillation method is made of, and the parts that several of them share."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from occdistill.flow.adapters import Adapted
from occdistill.flow.guidance import Guided
from occdistill.flow.path import Draws, TimeLaw, expand, interpolate
from occdistill.flow.solver import sample, step_velocity
from occdistill.latents.condition import Condition
from occdistill.types import Count, Whole


@dataclass
class Batch:
    """Training input of one update.

    Attributes:
        condition: conditions of B clips.
        draws: the batch's random streams, one per clip; all randomness of an update comes from it.
        x_1: true future latents `(B, F, C, H, W)`, for the methods that need data.
        moving: 1 where something has entered or left a cell of the aligned past, 0 elsewhere,
            `(B, F, H, W)`.
        sample: what the student made of it, kept for the auxiliary's further updates.
    """

    condition: Condition
    draws: Draws
    x_1: Tensor | None = None
    moving: Tensor | None = None
    sample: Tensor | None = None


@dataclass
class Loss:
    """A scalar to minimise and detached scalars to log."""

    total: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


def require(fits: bool, rule: str, value: object) -> None:
    """Refuse a method's argument.

    Raises:
        ValueError: `rule`, and the value that breaks it, unless `fits`.
    """
    if not fits:
        raise ValueError(f"{rule}, not {value!r}")


def surrogate(direction: Tensor, x: Tensor) -> Tensor:
    """`mean(sg[direction] · x)`: a scalar whose gradient in x is `direction / numel`.

    It is signed and unbounded; only its gradient means something.
    """
    return (direction.detach() * x).mean()


def frozen(net: nn.Module) -> nn.Module:
    """The same network in evaluation mode, its parameters without gradients."""
    return net.eval().requires_grad_(False)


@contextmanager
def only_grad(nets: nn.ModuleDict, name: str) -> Iterator[None]:
    """Inside, gradients are recorded for the parameters of `nets[name]` alone."""
    flags = {p: p.requires_grad for net in nets.values() for p in net.parameters()}
    try:
        for key, net in nets.items():
            net.requires_grad_(key == name)
        yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


class Task(nn.Module):
    """What `take_step` trains: nets by name, when each of them steps, and a loss for each.

    The loss of `nets["student"]` is the method `student_loss(batch, step)`, and so on.

    Args:
        nets: what is trained, by name; the first one is what the training is for.
        teacher: frozen; None where there is none.

    Attributes:
        main: name of the first net.
        evaluations: network evaluations spent so far, in clips, where they are counted.
        passes: the same with backward passes: each is worth two evaluations, one for activations
            and one for weights, or one where the weights are frozen, as under adapters.
        whole_batch: whether a loss compares the samples of its batch with each other; it isn't the
            mean of its parts' losses then, and gradients can't be accumulated.
    """

    whole_batch = False

    def __init__(self, nets: Mapping[str, nn.Module], teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.teacher = teacher
        self.nets = nn.ModuleDict(nets)
        self.main = next(iter(nets))
        self.evaluations = self.passes = 0

    def spend(self, clips: int, backward: int = 0) -> None:
        """Count an evaluation of so many clips, and what its backward pass will be worth."""
        self.evaluations += clips
        self.passes += (1 + backward) * clips

    def plan(self, step: int) -> tuple[str, ...]:
        """Names of the nets that step at this step, in order; a pure function of the step."""
        return (self.main,)

    def uses(self, name: str) -> int:
        """Updates in a row of a net that see the same batch."""
        return 1

    def batches(self, step: int) -> list[tuple[str, int]]:
        """The batches that this step takes, in order: whose each is, and the updates it is for."""
        found = []
        for name, group in groupby(self.plan(step)):
            updates, uses = len([*group]), self.uses(name)
            found += [(name, min(uses, updates - k)) for k in range(0, updates, uses)]
        return found

    def losses(self, name: str, batch: Any, step: int) -> Loss:
        """The loss of `nets[name]`.

        Raises:
            KeyError: no such net.
        """
        if name not in self.nets:
            raise KeyError(f"{type(self).__name__} has no net named {name!r}")
        return getattr(self, f"{name}_loss")(batch, step)

    def work(self, name: str, draws: Draws) -> Tensor | None:
        """How long the samples of an update of `nets[name]` take beside each other, `(B,)`, in any
        unit; None where all take as long.

        Args:
            name: of the net.
            draws: fresh streams of the samples, from which is drawn what the loss will draw.
        """
        return None

    def how_to_use(self) -> dict[str, Any]:
        """What its weights have to be used with: plain values, kept beside them."""
        return {}

    def after(self, name: str, step: int) -> None:
        """What follows an update of a net: moving averages, curricula. Nothing by default."""


class Steps(Protocol):
    """What updates a net."""

    def backward(self, loss: Tensor) -> None:
        """Gather a loss's gradients."""

    def step(self) -> Tensor | None:
        """One optimiser step with them; the gradient norm, or None if no update was made."""


def take_step(
    task: Task,
    batches: Iterator,
    updaters: Mapping[str, Steps],
    step: int,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    parts: int = 1,
) -> list[tuple[str, dict[str, Tensor]]]:
    """One training step: each net of the task's plan, in order, updated on batches of its own.

    Args:
        task: what is trained.
        batches: what its losses take, each in `parts` parts of equal size.
        updaters: of its nets, by name.
        step: number of the step, from 0.
        autocast: under which losses are computed.
        parts: of a batch, whose gradients are added up before the step: the whole batch's update,
            in the memory of a part.

    Returns:
        Name of the net and scalars of each update: `loss`, `grad_norm` (unless the loss scaler
        skipped the update, which nothing follows then) and what the loss logs.
    """
    updates = []
    for name, uses in task.batches(step):
        seen = []
        for use in range(uses):
            logs: dict[str, list[Tensor]] = defaultdict(list)
            with only_grad(task.nets, name):
                for part in range(parts):
                    if use == 0:
                        seen.append(next(batches))
                    with autocast():
                        loss = task.losses(name, seen[part], step)
                    updaters[name].backward(loss.total / parts)
                    for key, value in {"loss": loss.total.detach(), **loss.logs}.items():
                        logs[key].append(value)
                norm = updaters[name].step()
            scalars = {key: sum(values) / parts for key, values in logs.items()}
            if norm is not None:
                task.after(name, step)
                scalars["grad_norm"] = norm
            updates.append((name, scalars))
    return updates


class Method(Task, ABC):
    """Base of all methods: a task whose teacher is a velocity network, and its one-step student.

    Args:
        teacher: velocity network; it is frozen in place.
        latent_shape: `(F, C, H, W)` of what is generated.
        guidance: classifier-free guidance scale of the teacher. Only the teacher is ever guided.
        student: initial student network; default: a copy of the teacher.

    Attributes:
        cost: of a student update in F, forward passes of the full network over a batch: a step with
            backward is 3F, a guided teacher 2F, a derivative about 2.5F.
        other_cost: of one update of the auxiliary or the discriminator, in F.
        futures: whether it needs true futures, in words.
        derivative_of: which of the student's time derivatives it takes, in words.
        discriminator: what its discriminator reads, in words.
        stochastic: whether its student, with several evaluations, is noised again after each, because it
            knows the way to the data alone; others take Euler steps.
        collapse: the likeliest cause where its student's samples don't differ enough.
        nfe: evaluations of a sample that the student is trained for.
        fixed: arguments of a base class that make this method what it is, and can't be given.

    Raises:
        ValueError: for an argument out of its range; so do all methods.
    """

    cost: ClassVar[float]
    other_cost: ClassVar[float] = 0.0
    futures: ClassVar[str] = "–"
    derivative_of: ClassVar[str] = "–"
    discriminator: ClassVar[str] = "–"
    stochastic: ClassVar[bool] = False
    collapse: ClassVar[str] = (
        "its loss averages over futures, so keep it short or go on with MFD from its student"
    )
    fixed: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        teacher: nn.Module,
        latent_shape: tuple[Count, ...],
        guidance: float = 2.0,
        student: nn.Module | None = None,
    ) -> None:
        require(math.isfinite(guidance), "guidance must be a finite number", guidance)
        teacher = frozen(teacher)
        student = copy.deepcopy(teacher) if student is None else student
        super().__init__({"student": student.requires_grad_(True)}, teacher)
        self.guided_teacher = Guided(self.teacher, guidance)
        self.latent_shape = tuple(latent_shape)
        self._count_evaluations(self.teacher)
        self._count_evaluations(student)

    def _count_evaluations(self, net: nn.Module) -> None:
        def count(net: nn.Module, args: tuple, output: Tensor) -> None:
            whole = not isinstance(net, Adapted) and any(p.requires_grad for p in net.parameters())
            backward = (2 if whole else 1) if output.requires_grad else 0
            self.spend(args[0].shape[0], backward)

        net.register_forward_hook(count)

    @abstractmethod
    def student_loss(self, batch: Batch, step: int) -> Loss:
        """The student's loss; each method's own."""

    def generate(self, batch: Batch) -> Tensor:
        """One-step student output `G(z) = z + N(z, 0, 1, c)`, `(B, F, C, H, W)`, from fresh noise."""
        return self.one_step(batch.draws.normal(*self.latent_shape), batch.condition)

    def one_step(self, z: Tensor, condition: Condition) -> Tensor:
        """The student's output from given noise z, with gradients; the shape of z."""
        return z + step_velocity(self.nets["student"], z, 0.0, 1.0, condition)

    @property
    def nfe(self) -> int:
        """See the class."""
        return 1

    @torch.no_grad()
    def sample(self, condition: Condition, noise: Tensor, steps: int | None = None) -> Tensor:
        """Forecast latents with the student alone, unguided; in `nfe` steps unless told otherwise."""
        steps, renoise = self.nfe if steps is None else steps, 1.0 if self.stochastic else None
        return sample(self.nets["student"], noise, condition, steps, renoise=renoise)

    def how_to_use(self) -> dict[str, Any]:
        """How its student is sampled from."""
        return {"steps": self.nfe, "renoise": self.stochastic}


class DistributionMatching(Method):
    """Methods that compare the teacher with an auxiliary flow trained on the student's samples.

    The auxiliary learns the student's own velocity field by flow matching; a subclass says how the
    difference between the two fields at re-noised student samples becomes the student's gradient.

    What it costs beside the student's own update can be lowered: by fewer updates once the auxiliary
    keeps up, by several of them per student sample, and by adapters instead of a second network.

    Args:
        ratio: auxiliary updates before each student update, 1 or more (MFD: 10).
        final_ratio: where that falls to, from 1 to `ratio`; default: it stays.
        fall: student updates over which it falls, linearly.
        reuse: auxiliary updates per sample of the student, each with fresh noise and times.
        auxiliary_rank: of the adapters that make the auxiliary of another network's weights, see
            `Adapted`; 0: it is a whole copy of the teacher.
        auxiliary_base: whose weights those are, the teacher's, or the student's, which move.
        times: law of the student's re-noising times.
        auxiliary_times: law of the auxiliary's flow-matching times; default the same.
        steps: evaluations of one student sample, Euler on the sampler's grid, 1 or more. Gradients
            run through all of them (MFD's four-step student), at as many times the memory.
    """

    other_cost = 4.0
    collapse = (
        "its auxiliary doesn't keep up with it: raise method.ratio, or lower the student's lr"
    )

    def __init__(
        self,
        teacher: nn.Module,
        latent_shape: tuple[Count, ...],
        guidance: float = 2.0,
        ratio: Count = 10,
        times: TimeLaw | dict | None = None,
        auxiliary_times: TimeLaw | dict | None = None,
        student: nn.Module | None = None,
        auxiliary: nn.Module | None = None,
        steps: Count = 1,
        final_ratio: Count | None = None,
        fall: Count = 100,
        reuse: Count = 1,
        auxiliary_rank: Whole = 0,
        auxiliary_base: Literal["teacher", "student"] = "teacher",
    ) -> None:
        require(type(steps) is int and steps >= 1, "steps must be a whole number, 1 or more", steps)
        require(type(ratio) is int and ratio >= 1, "ratio must be a whole number, 1 or more", ratio)
        known = auxiliary_base in ("teacher", "student")
        require(known, "auxiliary_base must be 'teacher' or 'student'", auxiliary_base)
        last = ratio if final_ratio is None else final_ratio
        require(
            type(last) is int and 1 <= last <= ratio, "final_ratio must lie in [1, ratio]", last
        )
        for name, value in (("fall", fall), ("reuse", reuse)):
            whole = type(value) is int and value >= 1
            require(whole, f"{name} must be a whole number, 1 or more", value)
        student = copy.deepcopy(teacher) if student is None else student
        if not auxiliary_rank:
            alone = "auxiliary_base must be 'teacher' where auxiliary_rank is 0"
            require(auxiliary_base == "teacher", alone, auxiliary_base)
            auxiliary = copy.deepcopy(teacher) if auxiliary is None else auxiliary
        else:
            taken = "auxiliary_rank must be 0 where the method has an auxiliary of its own"
            require(auxiliary is None, taken, auxiliary_rank)
            base = teacher if auxiliary_base == "teacher" else student
            auxiliary = Adapted(base, auxiliary_rank)
        super().__init__(teacher, latent_shape, guidance, student)
        self._count_evaluations(auxiliary)
        self.nets["auxiliary"] = auxiliary.requires_grad_(True)
        self.ratio, self.final_ratio, self.fall, self.reuse = ratio, last, fall, reuse
        self.steps = steps
        self.times = time_law(times)
        self.auxiliary_times = self.times if auxiliary_times is None else time_law(auxiliary_times)

    def plan(self, step: int) -> tuple[str, ...]:
        """`ratio` auxiliary updates, later `final_ratio`, then one student update."""
        fallen = min(1.0, step / self.fall) * (self.ratio - self.final_ratio)
        return ("auxiliary",) * (self.ratio - round(fallen)) + ("student",)

    def uses(self, name: str) -> int:
        """`reuse` for the auxiliary: its updates share the student's sample."""
        return self.reuse if name == "auxiliary" else 1

    @torch.no_grad()
    def student_sample(self, batch: Batch) -> Tensor:
        """The student's sample of a batch, made when it is first asked for, without gradients."""
        if batch.sample is None:
            batch.sample = self.generate(batch)
        return batch.sample

    def auxiliary_loss(self, batch: Batch, step: int) -> Loss:
        """`E || v_A(x_t, t) - (sg x̂ - e) ||²`, `x_t = t sg x̂ + (1 - t) e`, e fresh, unguided."""
        return self.flow_matching(self.student_sample(batch), batch)

    def flow_matching(self, sample_: Tensor, batch: Batch) -> Loss:
        """The auxiliary's loss on given student samples `(B, F, C, H, W)`."""
        noise = batch.draws.normal(*self.latent_shape)
        t = self.auxiliary_times.times(batch.draws)
        v = self.nets["auxiliary"](interpolate(sample_, noise, t), t, batch.condition)
        loss = (v - (sample_ - noise)).square().mean()
        return Loss(loss, {"flow_matching": loss.detach()})

    def generate(self, batch: Batch) -> Tensor:
        """Student output in `steps` evaluations, `(B, F, C, H, W)`, from fresh noise."""
        z = batch.draws.normal(*self.latent_shape)
        return sample(self.nets["student"], z, batch.condition, self.steps)

    @property
    def nfe(self) -> int:
        """As many as it is trained with."""
        return self.steps

    def matching_loss(self, x: Tensor, gap: Tensor, weight: Tensor | float = 1.0) -> Loss:
        """Surrogate that moves x against `weight · gap`, where gap is auxiliary minus teacher."""
        if isinstance(weight, Tensor):
            weight = expand(weight, x)
        return Loss(surrogate(weight * gap, x), {"gap": gap.detach().square().mean()})


def time_law(given: TimeLaw | dict | None, /, **defaults) -> TimeLaw:
    """A `TimeLaw` from itself, or from a config's dict, which changes single `defaults`.

    Raises:
        ValueError: see `TimeLaw`.
    """
    return given if isinstance(given, TimeLaw) else TimeLaw(**{**defaults, **(given or {})})

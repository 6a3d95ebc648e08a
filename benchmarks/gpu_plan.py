"""What MFD at full size will ask of a GPU: operations, memory and hours, counted without one.

    python benchmarks/gpu_plan.py

Operations are those of matrix products, convolutions and attention in one auxiliary and one student
update, by shapes alone; memory as `occdistill.occfm.memory` counts it. Hours are operations over a
stated share of the rate that the maker publishes: no more than a plan. Two minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from occdistill.build.config import load_config
from occdistill.distill.base import take_step
from occdistill.evaluation.report import table
from occdistill.flow.path import Draws, TimeLaw
from occdistill.flow.solver import equal_steps
from occdistill.occfm.memory import Step, live_bytes

aten = torch.ops.aten
SHARE = 0.3  # of the published rate


@dataclass(frozen=True)
class Setup:
    """A machine, and how a batch is taken on it.

    Attributes:
        name: of the machine.
        tflops: of a GPU, published, dense, float16 with sums in float32.
        gpus: how many.
        accumulate, balance: of `train_distill`.
        recompute: of the network.
    """

    name: str
    tflops: float
    gpus: int = 1
    accumulate: int = 1
    balance: int = 0
    recompute: bool = False


SETUPS = (
    Setup("1 × H100, 80 GB", 989),
    Setup("8 × RTX 3090, 24 GB", 71, gpus=8),
    Setup("8 × RTX 3090, 24 GB", 71, gpus=8, balance=16),
    Setup("1 × RTX 3090, 24 GB", 71, accumulate=2),
    Setup("1 × RTX 3060, 12 GB", 25.5, accumulate=4),
    Setup("1 × RTX 3060, 12 GB", 25.5, recompute=True),
)


def flops_of(function: Callable[[], object]) -> int:
    """Operations of a call, attention and its gradients included."""
    forward, backward = (
        getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{way}")
        for way in ("", "_backward")
    )
    mapping = {
        forward: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v),
        backward: lambda grad, q, k, v, *args, **kwargs: sdpa_backward_flop_count(grad, q, k, v),
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        function()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Operations:
    """Of one clip: a forward pass, and updates whose integrations are one Euler step long."""

    forward: int
    auxiliary: int
    student: int

    def iteration(self, ratio: int, steps: float) -> float:
        """Of one step of the training; `steps`: Euler steps of an integration, on average."""
        return ratio * self.auxiliary + self.student + 3 * (steps - 1) * self.forward


def count(recompute: bool = False) -> Operations:
    """Count them on tensors without contents."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        one = Step(recompute=recompute)
        x = one.noise()
        with torch.no_grad():
            forward = flops_of(lambda: one.method.teacher(x, one.t, one.condition))
        found = {}
        for name in ("auxiliary", "student"):
            one.plan = lambda step, name=name: (name,)
            found[name] = flops_of(
                lambda: take_step(one, iter([one.condition]), one.updaters, 0, one.autocast)
            )
    return Operations(forward, **found)


@cache
def gigabytes(batch: int, recompute: bool) -> str:
    """Peak memory counted for float16 and for float32, between which autocast lies."""
    step = dict(batch=batch, recompute=recompute)
    found = (live_bytes(dtype=d, **step)["peak"] / 1e9 for d in (torch.float16, None))
    return " to ".join(f"{size:.1f}" for size in found)


def slowest(work: Tensor, ranks: int, balance: int, batch: int) -> float:
    """Euler steps of the process that all others wait for, a sample, on average."""
    if balance:  # as `Exchange` deals them where each process has one sample
        work = work.view(-1, balance * batch).sort(1).values
    return float(work.view(-1, batch // ranks, ranks).sum(1).amax(1).mean()) / (batch // ranks)


def main() -> None:
    """Print what docs/gpu.md shows."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    config = load_config("configs/nus.py")
    batch, ratio = config.train_distill.batch_size, config.method.ratio
    iterations = config.train_distill.iterations
    t, r = TimeLaw().intervals(Draws([(0, k) for k in range(16 * 8 * 200)]))
    work = equal_steps(r - t, config.method.ode_step)
    rows, counted = [], {way: count(way) for way in (False, True)}
    plain = counted[False]
    mean = plain.iteration(ratio, float(work.mean()))
    print(
        f"A forward pass of a clip: {plain.forward / 1e9:.0f} GFLOP; an update of the auxiliary "
        f"{plain.auxiliary / plain.forward:.2f} passes, of the student with {work.mean():.1f} Euler "
        f"steps {(mean - ratio * plain.auxiliary) / plain.forward:.1f}. An iteration of batch "
        f"{batch}: {batch * mean / 1e12:.0f} TFLOP; all {iterations}: "
        f"{batch * mean * iterations / 1e18:.2f} EFLOP.\n",
        flush=True,
    )
    for setup in SETUPS:
        own = batch // setup.gpus
        steps = slowest(work, setup.gpus, setup.balance, batch)
        flops = own * counted[setup.recompute].iteration(ratio, steps)
        share = SHARE * setup.tflops * 1e12
        options = [f"accumulate={setup.accumulate}"] * (setup.accumulate > 1)
        options += [f"balance={setup.balance}"] * (setup.balance > 0)
        options += ["recompute"] * setup.recompute
        memory = gigabytes(own // setup.accumulate, setup.recompute)
        seconds = flops / share
        hours = seconds * iterations / 3600
        told = (f"{steps:.1f}", f"{seconds:.2f}", f"{hours:.1f}")
        rows.append([setup.name, own, ", ".join(options) or "–", memory, *told])
    header = ["machine", "clips a GPU", "options", "GB", "Euler steps", "s an iteration", "hours"]
    print(table(header, rows))


if __name__ == "__main__":
    main()

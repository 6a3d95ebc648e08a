"""What one full-size MFD step needs on a GPU: counted without one, measured where there is one.

    python -m occdistill.occfm.memory [--batch 1] [--dtype bfloat16] [--recompute] [--device cuda]
    python -m occdistill.occfm.memory --update --batch 8 --dtype float16 --device cuda

The count runs one auxiliary and one student update on tensors that have sizes and no contents
(torch's fake tensors) and follows every block of memory from birth to death. It is exact for what
PyTorch allocates on a CPU; a GPU adds its libraries' workspaces, the allocator's rounding and the
CUDA context, about 1 to 2 GB together, and runs norms in float32 under autocast, so that a half-
precision run lies between the counts for its dtype and for float32.

Counted at batch 1 for the network with the future trajectory (teacher, auxiliary and student of
11.9 M parameters each, AdamW in float32):

    GB at the peak        float32    bfloat16
    everything stored       3.1        2.1
    recomputed              0.75       0.66

of which 0.33 stay between updates (three sets of weights 0.14, Adam's moments 0.18). Activations
grow with the batch: 24 GB hold a batch of 7 in float32. Latents come from the cache, so the
autoencoder isn't there. Not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
import time
import weakref
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from occdistill.distill.base import Batch, Loss, Task, take_step
from occdistill.distill.mfd import MFD
from occdistill.errors import UserError, run
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.path import Draws, interpolate
from occdistill.latents.condition import Condition
from occdistill.runtime.latency import peak_mb, reset_peak
from occdistill.runtime.machine import device_name
from occdistill.store import write_json
from occdistill.training.updates import Updater

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still alive.

    Attributes:
        live: bytes alive now.
        peak: the largest that `live` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and look at what it returns."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage())
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            weakref.finalize(storage, self._gone, key, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class Step(Task):
    """The heaviest moments of one MFD step at full size: an auxiliary and a student update.

    The two ODE integrations are one Euler step long here: their states are small, and steps reuse
    each other's memory.

    Args:
        batch: clips per update.
        dtype: of matrix products under autocast; None for float32 throughout.
        recompute: activation checkpointing in the student and the auxiliary.
        device: where it runs.
    """

    def __init__(
        self,
        batch: int = 1,
        dtype: torch.dtype | None = None,
        recompute: bool = False,
        device: str = "cpu",
        **network,
    ) -> None:
        teacher, student, auxiliary = (
            transition(device, recompute=recompute, **network) for _ in range(3)
        )
        shape = (batch, teacher.future, *teacher.latent_shape)
        method = MFD(teacher, shape[1:], student=student, auxiliary=auxiliary).train()
        super().__init__(method.nets, teacher)
        self.method, self.shape = method, shape
        self.updaters = {name: Updater(net, lr=1e-6) for name, net in self.nets.items()}
        self.condition = drawn_condition(teacher, batch, device)
        self.t = torch.full((batch,), 0.5, device=device)
        self.autocast = lambda: autocast(device, dtype)

    def plan(self, step: int) -> tuple[str, ...]:
        """One update of each net."""
        return ("auxiliary", "student")

    def run(self) -> None:
        """All of the plan."""
        take_step(self, repeat(self.condition), self.updaters, 0, self.autocast)

    def noise(self) -> Tensor:
        """Standard normal, shaped like the future latents."""
        return torch.randn(self.shape, device=self.t.device)

    def auxiliary_loss(self, batch: Condition, step: int) -> Loss:
        """Flow matching on a fresh student sample."""
        with torch.no_grad():
            x_1 = self.method.one_step(self.noise(), batch)
        x_0 = self.noise()
        v = self.method.nets["auxiliary"](interpolate(x_1, x_0, self.t), self.t, batch)
        return Loss((v - (x_1 - x_0)).square().mean())

    def student_loss(self, batch: Condition, step: int) -> Loss:
        """MFD's surrogate, with one evaluation each of the guided teacher and the auxiliary."""
        x_1 = self.method.one_step(self.noise(), batch)
        x_t = interpolate(x_1, self.noise(), self.t)
        with torch.no_grad():
            u_T = self.method.guided_teacher(x_t.detach(), self.t, batch)
            u_A = self.method.nets["auxiliary"](x_t.detach(), self.t, batch)
        return self.method.matching_loss(x_t, u_A - u_T)


def transition(device: str, **network) -> OccFMTransition:
    """The network with the future trajectory, its weights drawn."""
    with torch.device(device):
        return OccFMTransition(**{"trajectory_length": 12, "history": 4, **network})


def drawn_condition(network: OccFMTransition, batch: int, device: str) -> Condition:
    """Random latents and a random drive."""
    past = torch.randn(batch, network.past, *network.latent_shape, device=device)
    trajectory = torch.randn(batch, network.trajectory_length, 2, device=device)
    return Condition(past, trajectory=trajectory)


def autocast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    """As the trainer computes losses; None for float32 throughout."""
    where = torch.device(device).type
    return torch.autocast(where, dtype, enabled=dtype is not None, cache_enabled=False)


def live_bytes(**step) -> dict[str, int]:
    """Bytes of one step, without allocating them.

    Args:
        **step: arguments of `Step`.

    Returns:
        weights: of teacher, student and auxiliary; resident: what stays between steps (weights,
        Adam's moments, the batch); peak: the most that is alive at once.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as bytes_:
        one = Step(**step)
        nets = (one.method.teacher, *one.method.nets.values())
        weights = sum(t.untyped_storage().nbytes() for n in nets for t in n.state_dict().values())
        one.run()
        return {"weights": weights, "resident": bytes_.live, "peak": bytes_.peak}


def measure(repeats: int = 5, **step) -> dict[str, float]:
    """Peak bytes and seconds per step on a GPU; arguments as for `live_bytes`."""
    one = Step(**step)
    one.run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(repeats):
        one.run()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / repeats
    return {"peak": torch.cuda.max_memory_allocated(), "seconds": seconds}


def update(
    batch: int = 8,
    dtype: torch.dtype | None = torch.float16,
    recompute: bool = False,
    device: str = "cuda",
    repeats: int = 3,
    **network,
) -> dict[str, float]:
    """One of MFD's updates, whole, as `configs/nus.py` trains: ten of the auxiliary, each with a
    batch and a student sample of its own, one of the student with both integrations, h = 0.02.

    Args:
        batch, dtype, recompute, device: as for `Step`.
        repeats: updates that are timed, after one that isn't.
        **network: of `OccFMTransition`, to make it smaller.

    Returns:
        seconds of an update; peak_mb as in `runtime.latency`; evaluations of a network in an
        update, in clips; skipped: of the nets' updates, those that overflowed in float16.
    """
    teacher = transition(device, recompute=recompute, **network)
    method = MFD(teacher, (teacher.future, *teacher.latent_shape)).train()
    scaling = dict(loss_scaling=dtype == torch.float16, loss_scale=10.0)
    updaters = {name: Updater(net, lr=1e-6, **scaling) for name, net in method.nets.items()}
    condition, place = drawn_condition(teacher, batch, device), torch.device(device)

    def batches() -> Iterator[Batch]:
        for number in count():
            yield Batch(condition, Draws([(number, row) for row in range(batch)], place))

    def synchronize() -> float:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return time.perf_counter()

    drawn, peak, skipped = batches(), 0.0, 0
    for number in range(1 + repeats):
        if number == 1:
            before, start = method.evaluations, synchronize()
        reset_peak(place)
        done = take_step(method, drawn, updaters, number, lambda: autocast(device, dtype))
        peak = max(peak, peak_mb(place))
        skipped += sum("grad_norm" not in scalars for _, scalars in done)
    return {
        "seconds": (synchronize() - start) / repeats,
        "peak_mb": peak,
        "evaluations": (method.evaluations - before) / repeats,
        "skipped": skipped,
    }


def main() -> None:
    """Count or measure one configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    parser.add_argument("--device", default="cpu", help="cpu counts, cuda measures")
    parser.add_argument("--update", action="store_true", help="measure MFD's whole update")
    parser.add_argument("--out", type=Path, help="a JSON file for what --update measures")
    args = parser.parse_args()
    step = dict(batch=args.batch, dtype=DTYPES[args.dtype], recompute=args.recompute)
    on_gpu = torch.device(args.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError(f"no GPU for --device {args.device}: count with --device cpu")
    if args.update:
        found = update(device=args.device, **step)
        print(
            f"{device_name(args.device)}: {found['seconds']:.2f} s per update at batch "
            f"{args.batch} in {args.dtype}, at most {found['peak_mb']:.0f} MiB, "
            f"{found['evaluations'] / args.batch:.0f} evaluations per clip"
        )
        if args.out:
            write_json(args.out, {"batch": args.batch, "dtype": args.dtype, **found})
    elif on_gpu:
        found = measure(device=args.device, **step)
        print(f"peak {found['peak'] / 1e9:.2f} GB, {found['seconds']:.3f} s per pair of updates")
    else:
        found = live_bytes(**step)
        print(", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in found.items()))


if __name__ == "__main__":
    run(main)

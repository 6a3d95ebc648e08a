"""OccFM's full-size networks on one machine: time, rates against ceilings, and exactness.

    OMP_NUM_THREADS=2 python benchmarks/full_size.py
    OMP_NUM_THREADS=1 python benchmarks/full_size.py --clock cpu       # on a busy machine
    python benchmarks/full_size.py --device cuda --dtype bfloat16

Encodes one frame, evaluates the transition once without guidance and decodes six frames, which is a
streaming forecast of one step. Ceilings, a large matrix product and a large copy, are timed between
the stages in every round, so that what else the machine does hits all of them alike. Medians.

Weights and inputs are drawn by the golden files' rule, so no data are needed. Each stage's result
is compared with the networks as they are written, in float32, back end `plain`.
"GFLOP" are those of the plain back end, "done" those that ran.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor

from occdistill.build.builders import build_codec, build_network, build_vae
from occdistill.build.config import load_config
from occdistill.errors import UserError, run
from occdistill.latents.condition import Condition
from occdistill.occfm.golden import fill, normal, occupancy, trajectory
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.machine import device_name
from occdistill.runtime.roofline import Work, work_of

CLOCKS = ("wall", "cpu")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cpu")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: of the calling thread, alone in use")
    add("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.repeats < 1:
        raise UserError("--repeats starts at 1")
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"no GPU for --device {args.device}: run with --device cpu")
    if args.clock == "cpu" and (args.device != "cpu" or torch.get_num_threads() > 1):
        raise UserError("--clock cpu counts one thread: set OMP_NUM_THREADS=1 and --device cpu")
    return args


@torch.no_grad()
def main() -> None:
    """Print the table of one machine."""
    args = parse()
    dtype = getattr(torch, args.dtype)
    config = load_config("configs/nus.py", {})
    vae = fill(build_vae(config, weights=False), 0)
    network = fill(build_network(config), 0)
    codec = build_codec(config, vae)
    exact = Forecaster(codec, network, device=args.device, backend="plain")
    tested = Forecaster(codec, network, device=args.device, dtype=dtype)
    condition = Condition(normal(0, "cond", 1, 6, 16, 50, 50), trajectory=trajectory(0)[:1])
    condition = condition.to(args.device)
    noise = normal(0, "noise", 1, 6, 16, 50, 50).to(args.device)
    frame = torch.from_numpy(occupancy(0, 0))[None].to(args.device)

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    written, wanted = {}, {}
    written["encode"], wanted["encode"] = worked(lambda: exact.encode(frame))
    written["evaluate"], wanted["evaluate"] = worked(lambda: exact.generate(condition, noise))
    latents = wanted["evaluate"]
    written["decode"], wanted["decode"] = worked(lambda: exact.decode(latents))
    stages = {
        "encode": lambda: tested.encode(frame),
        "evaluate": lambda: tested.generate(condition, noise),
        "decode": lambda: tested.decode(latents),
    }
    done, differs = {}, {}
    for name, stage in stages.items():
        done[name], result = worked(stage)
        differs[name] = difference(name, result, wanted[name])
    forecast = tested.decode(tested.generate(condition, noise))
    changed = float((forecast != wanted["decode"]).float().mean())

    side, numbers = (8192, 2**28) if args.device != "cpu" else (1024, 2**25)
    ceilings = {"matmul": product(side, dtype, args.device), "copy": copy(numbers, args.device)}
    seconds = measure({**stages, **ceilings}, args.repeats, clock(args))
    gflops = 2e-9 * side**3 / seconds["matmul"]
    gbytes = 8e-9 * numbers / seconds["copy"]

    print(f"{device_name(args.device)}, {args.dtype}, {args.clock} clock, {date.today()}, torch")
    print(f"{torch.__version__}. Matrix product {gflops:.0f} GFLOP/s, copy {gbytes:.1f} GB/s.\n")
    print("| stage | ms | GFLOP | done | GFLOP/s | % of matmul | GB | % of copy | differs |")
    print("|---" * 9 + "|")
    rows = [(n, seconds[n], written[n], done[n], differs[n]) for n in stages]
    rows.append(("all", *map(sum, zip(*[r[1:2] for r in rows])), total(written), total(done)))
    rows[-1] += (f"{100 * changed:.4f} % of voxels",)
    for name, s, plan, ran, differs_by in rows:
        rate, traffic = 1e-9 * plan.flops / s, 1e-9 * ran.bytes / s
        print(
            f"| {name} | {1e3 * s:.1f} | {1e-9 * plan.flops:.1f} | {1e-9 * ran.flops:.1f} |"
            f" {rate:.0f} | {100 * rate / gflops:.0f} | {1e-9 * ran.bytes:.1f} |"
            f" {100 * traffic / gbytes:.0f} | {differs_by} |"
        )


def worked(stage: Callable[[], Tensor]) -> tuple[Work, Tensor]:
    """What a call executes, and its result."""
    results = []
    return work_of(lambda: results.append(stage())), results[0]


def total(work: dict[str, Work]) -> Work:
    """All stages together."""
    return Work(sum(w.flops for w in work.values()), sum(w.bytes for w in work.values()))


def difference(name: str, result: Tensor, wanted: Tensor) -> str:
    """For people: voxels that differ, or rms error over standard deviation."""
    if name == "decode":
        return f"{100 * float((result != wanted).float().mean()):.4f} % of voxels"
    return f"{float((result - wanted).square().mean().sqrt() / wanted.std()):.1e} rms"


def product(side: int, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    """A matrix product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def copy(numbers: int, device: str) -> Callable[[], Tensor]:
    """A copy of so many float32."""
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def clock(args: argparse.Namespace) -> Callable[[Callable], float]:
    """Seconds that a call takes."""
    if args.device != "cpu":
        return cuda_seconds
    now = time.perf_counter if args.clock == "wall" else time.thread_time

    def seconds(function: Callable) -> float:
        start = now()
        function()
        return now() - start

    return seconds


def cuda_seconds(function: Callable) -> float:
    """Seconds between two events on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end)


def measure(functions: dict[str, Callable], repeats: int, clock: Callable) -> dict[str, float]:
    """Median seconds of each; every round calls all of them, after one call unclocked."""
    for function in functions.values():
        function()
    rounds = [{n: clock(f) for n, f in functions.items()} for _ in range(repeats)]
    return {name: statistics.median(r[name] for r in rounds) for name in functions}


if __name__ == "__main__":
    run(main)

"""What 8-bit integers gain on this CPU, and what they change.

    python benchmarks/int8.py [CONFIG CHECKPOINT] [--rounds 10] [--clips 12]

The same weights as plain float32, in ONNX Runtime in float32, and there in int8 take turns, on one
thread. Times are medians of CPU milliseconds, which a machine that is busy with other things lengthens
less than those of a clock; voxels and scores are those of clips spread over the validation split.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from occdistill.build.builders import clips_of
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.build.options import Options
from occdistill.evaluation.agreement import agreement
from occdistill.evaluation.report import table
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.machine import model_name

WAYS = {
    "plain float32": dict(backend="plain"),
    "ONNX float32": dict(backend="onnx"),
    "ONNX int8": dict(backend="onnx", dtype=torch.int8),
}


def parts(f: Forecaster, clip: dict) -> dict[str, Callable[[], object]]:
    """What is timed: the stages alone, and a step of a stream."""
    past, poses, trajectory = (clip[key][None] for key in ("past", "poses", "trajectory"))
    latents, noise = f.frames(past), f.noise(1, torch.Generator().manual_seed(0))
    condition = f.condition(past, poses, trajectory, latents)
    future = f.generate(condition, noise)

    def step() -> None:
        newest = f.encode(past[:, -1])[:, None]
        known = torch.cat([latents[:, :-1], newest], dim=1)
        f.decode(f.generate(f.condition(past, poses, trajectory, known), noise))

    return {
        "encoder, a frame": lambda: f.encode(past[:, -1]),
        "flow": lambda: f.generate(condition, noise),
        "decoder, a frame": lambda: f.decode(future[:, :1]),
        "live step": step,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("config", nargs="?", default="configs/demo.py")
    add("checkpoint", nargs="?", default="data/demo-weights/student.pth")
    add("--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE")
    add("--rounds", type=int, default=10)
    add("--clips", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(args.config, args.cfg_options)
    models, clips = Models(config), clips_of(config, "val", args.clips)
    ways = {name: models.forecaster(args.checkpoint, **how) for name, how in WAYS.items()}
    timed = {name: parts(f, clips[0]) for name, f in ways.items()}
    taken = {name: {part: [] for part in functions} for name, functions in timed.items()}
    for round_ in range(args.rounds + 1):
        for part in taken["ONNX int8"]:
            for name, functions in timed.items():
                start = time.process_time()
                functions[part]()
                if round_:  # the first is to warm up
                    taken[name][part].append(1e3 * (time.process_time() - start))
    reference, rows = ways["plain float32"], []
    for name, f in ways.items():
        ms = [f"{np.median(values):.1f}" for values in taken[name].values()]
        changed = ["0", ""] if f is reference else _changes(reference, f, clips)
        rows.append([name, *ms, *changed])
    print(table(["how", *taken[name], "voxels changed", "mIoU"], rows))
    print(f"\nCPU ms, {args.rounds} rounds, {len(clips)} clips; {model_name('cpu')}: {_vnni()}")


def _changes(reference: Forecaster, f: Forecaster, clips: list[dict]) -> list[str]:
    found = agreement(reference, f, clips)
    return [f"{100 * found.differ:.4f} %", f"{found.miou:+.3f}"]


def _vnni() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            words = set(file.read().split())
    except OSError:
        return "its instructions aren't known"
    there = sorted(words & {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"})
    return ", ".join(there) or "none of AVX2 and what followed"


if __name__ == "__main__":
    main()

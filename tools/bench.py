"""One timing table of this machine: every model, scope and back end, at demo and at full size.

    python tools/bench.py                          # configs/demo.py and configs/nus.py
    python tools/bench.py configs/demo.py --backend eager --repeats 50

Needs no data and no weights: networks are fresh and streets are drawn, neither of which changes
how long a forecast takes. Writes `bench.json` (a row per model, scope and back end), `machine.json`
(ceilings, and the rates of reading and scoring) and `bench.md` to work_dirs/bench/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction

from occdistill.config import build_codec, build_network, build_vae, load_config
from occdistill.data.occ3d import OCC3D
from occdistill.data.voxelize import Sweep, voxelize
from occdistill.errors import UserError, run
from occdistill.evaluation.confusion import confusion
from occdistill.runtime import roofline
from occdistill.runtime.forecaster import BACKENDS, Forecaster, disagreement
from occdistill.runtime.latency import SCOPES, compare, device_name
from occdistill.runtime.lineup import DTYPES

CONFIGS = ("configs/demo.py", "configs/nus.py")
TEACHER_NFE = (10, 5, 2, 1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("configs", nargs="*", default=list(CONFIGS), help="one model size each")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    add("--backend", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    add("--repeats", type=int, default=20, help="timed forecasts per row")
    add("--seconds", type=float, default=30.0, help="fewer repeats where they take longer, but 2")
    add("--out", type=Path, default=Path("work_dirs/bench"))
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.repeats < 1:
        raise UserError("--repeats starts at 1")
    return args


def main() -> None:
    """Measure everything, then write it."""
    args = parse()
    torch.manual_seed(0)
    ceilings = {dtype: roofline.ceiling(args.device, getattr(torch, dtype)) for dtype in args.dtype}
    machine = {
        "device": device_name(args.device),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "matmul_gflops": {dtype: c.gflops for dtype, c in ceilings.items()},
        "copy_gbytes_per_s": max(c.gbytes_per_s for c in ceilings.values()),
        "voxelize_keyframes_per_s": voxelize_rate(),
        "confusion_clips_per_s": confusion_rate(),
    }
    rows = []
    for path in args.configs:
        rows += bench(path, load_config(path, args.cfg_options), args, ceilings)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bench.json").write_text(json.dumps(rows, indent=1))
    (args.out / "machine.json").write_text(json.dumps(machine, indent=1))
    text = table(rows, machine)
    (args.out / "bench.md").write_text(text + "\n")
    print(text)


def bench(path: str, config: Config, args: argparse.Namespace, ceilings: dict) -> list[dict]:
    """All rows of one model size."""
    vae, network = build_vae(config, weights=False), build_network(config)
    codec = build_codec(config, vae)
    size = "x".join(map(str, vae.grid_shape))
    clip = street(config.data.past, config.data.future, vae.grid_shape)
    models = [("teacher", nfe, config.guidance) for nfe in TEACHER_NFE] + [("student", 1, None)]

    def forecaster(nfe: int, guidance: float | None, dtype: str, backend: str) -> Forecaster:
        return Forecaster(
            codec, network, nfe=nfe, guidance=guidance, device=args.device,
            dtype=getattr(torch, dtype), backend=backend,
        )  # fmt: skip

    plain = {g: forecaster(1, g, "float32", "eager") for g in (None, config.guidance)}
    work = {g: count_stages(f, clip) for g, f in plain.items()}
    rows = []
    for dtype, backend in product(args.dtype, args.backend):
        print(f"{path}: {backend}, {dtype}", flush=True)
        field = {g: forecaster(1, g, dtype, backend) for g in plain}  # one set of kernels for all
        line_up = {(m, n, g): field[g].with_nfe(n) for m, n, g in models}
        differ = disagreement(plain[None], field[None], *clip)
        start = time.perf_counter()
        for one in line_up.values():
            one(*clip)  # compiles
        start = time.perf_counter()
        for one in line_up.values():
            one(*clip)
        round_ = max(time.perf_counter() - start, 1e-9)
        repeats = int(np.clip(args.seconds * len(models) / round_, 2, args.repeats))
        times = compare(line_up, *clip, repeats=repeats, warmup=0)
        for (model, nfe, guidance), scopes in times.items():
            done = scope_work(work[guidance], nfe)
            for scope in SCOPES:
                rate = scopes[scope]["clips_per_s"]
                rows.append(
                    {
                        "model": model,
                        "nfe": nfe,
                        "guidance": guidance,
                        "scope": scope,
                        "backend": backend,
                        "dtype": dtype,
                        "size": size,
                        "decoder": "full",
                        **scopes[scope],
                        "gflops": 1e-9 * done[scope].flops * rate,
                        "ceiling_gflops": ceilings[dtype].gflops,
                        "gbytes_per_s": 1e-9 * done[scope].bytes * rate,
                        "ceiling_gbytes_per_s": ceilings[dtype].gbytes_per_s,
                        "gflop": 1e-9 * done[scope].flops,
                        "gbyte": 1e-9 * done[scope].bytes,
                        "voxels_differ": differ,
                        "repeats": repeats,
                    }
                )
    return rows


def street(past: int, future: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """A clip of random boxes on a road, driven straight on: past, poses, trajectory."""
    rng = np.random.default_rng(0)
    voxels = np.full((past, *shape), 17, np.uint8)
    voxels[..., 0] = 11
    for low in rng.random((40, 2)):
        x, y = (low * shape[:2]).astype(int)
        voxels[:, x : x + 6, y : y + 4, 1 : 1 + rng.integers(1, shape[2])] = rng.integers(17)
    poses = torch.eye(4).repeat(1, past + future, 1, 1)
    poses[0, :, 0, 3] = 3.0 * torch.arange(1 - past, future + 1)
    trajectory = torch.tensor([0.0, 3.0]).expand(1, past + future, 2)
    return torch.from_numpy(voxels)[None], poses, trajectory


def count_stages(forecaster: Forecaster, clip: tuple) -> tuple[roofline.Work, ...]:
    """Work of encoding the newest frame, of one evaluation, and of decoding."""
    past, poses, trajectory = clip
    latents = forecaster.encode(past.flatten(0, 1))[None]
    condition = forecaster.condition(past, poses, trajectory, latents)
    noise = forecaster.noise(1)

    def encode() -> None:
        forecaster.encode(past[:, -1])
        forecaster.condition(past, poses, trajectory, latents)

    return (
        roofline.count(encode),
        roofline.count(lambda: forecaster.generate(condition, noise)),
        roofline.count(lambda: forecaster.decode(noise)),
    )


def scope_work(stages: tuple[roofline.Work, ...], nfe: int) -> dict[str, roofline.Work]:
    """Work per scope of a forecast with `nfe` evaluations."""
    encode, evaluate, decode = (np.array([s.flops, s.bytes]) for s in stages)
    totals = (
        encode + nfe * evaluate + decode,
        nfe * evaluate + decode,
        nfe * evaluate,
    )
    return {scope: roofline.Work(*map(int, total)) for scope, total in zip(SCOPES, totals)}


def voxelize_rate(sweeps: int = 5, points: int = 34_720) -> float:
    """Keyframes per second: sweeps of nuScenes' size, merged and voted on at full size."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (sweeps, 1, 1))
    poses[:, 0, 3] = 3.0 * np.arange(sweeps)
    merged = []
    for pose in poses:
        angle, reach = rng.uniform(0, 2 * np.pi, points), rng.exponential(15.0, points)
        height = rng.uniform(-1.8, 2.0, points)
        cloud = np.stack([reach * np.cos(angle), reach * np.sin(angle), height], 1)
        merged.append(Sweep(cloud.astype(np.float32), rng.integers(0, 17, points), pose))
    return rate(lambda: voxelize(merged, poses[-1]))


def confusion_rate(frames: int = 6) -> float:
    """Clips per second of counting full-size confusion matrices."""
    truth = street(frames, 0, OCC3D.shape)[0][0].numpy()
    forecast = np.roll(truth, 3, axis=1)
    return rate(lambda: confusion(forecast, truth))


def rate(function: Callable[[], object], seconds: float = 2.0) -> float:
    """Calls per second, after one that may compile."""
    function()
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        function()
        calls += 1
    return calls / elapsed


def table(rows: list[dict], machine: dict) -> str:
    """Markdown for people: a line per model and back end, gains over the first eager line."""
    ceilings = ", ".join(f"{v:.0f} GFLOP/s {k}" for k, v in machine["matmul_gflops"].items())
    facts = (
        f"Ceilings measured in this run: matrix product {ceilings}; copy"
        f" {machine['copy_gbytes_per_s']:.1f} GB/s. Voxelising 5 merged sweeps:"
        f" {machine['voxelize_keyframes_per_s']:.0f} keyframes/s; counting confusion matrices:"
        f" {machine['confusion_clips_per_s']:.0f} clips/s."
    )
    columns = ["size", "model", "back end", *(f"{scope} p50 ms (×)" for scope in SCOPES)]
    columns += ["clips/s end to end", "GFLOP", "% of matmul", "% of copy", "peak MiB"]
    columns += ["voxels that differ"]
    lines = [
        f"{machine['device']}, {machine['date']}, torch {machine['torch']}",
        "",
        facts,
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for i in range(0, len(rows), len(SCOPES)):
        group = rows[i : i + len(SCOPES)]
        head = group[0]
        base = [r for r in rows if r["size"] == head["size"]][: len(SCOPES)]
        cells = [
            f"{r['p50_ms']:.1f} ({b['p50_ms'] / r['p50_ms']:.1f})" for r, b in zip(group, base)
        ]
        cells += [
            f"{head['clips_per_s']:.2f}",
            f"{head['gflop']:.1f}",
            f"{100 * head['gflops'] / head['ceiling_gflops']:.0f}",
            f"{100 * head['gbytes_per_s'] / head['ceiling_gbytes_per_s']:.0f}",
            f"{head['peak_mb']:.0f}",
            f"{100 * head['voxels_differ']:.4f} %",
        ]
        name = f"{head['model']}@{head['nfe']}"
        lines.append(
            f"| {head['size']} | {name} | {head['backend']} {head['dtype']} | "
            + " | ".join(cells) + " |"
        )  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)

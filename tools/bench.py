"""One timing table of this machine: every model, scope and back end, at demo and at full size.

    python tools/bench.py                          # configs/demo.py and configs/nus.py
    python tools/bench.py --quick                  # demo size, nothing compiled
    python tools/bench.py configs/nus.py --backend plain eager aot --out benchmarks

The first line of a size is the pipeline run plainly: the teacher's ten guided steps and its decoder
in eager PyTorch, float32. Everything else is compared with it, forecast by forecast in turn, and
checked: the share of voxels that differ is against plain float32 with the same networks and noise.

Needs no data and no weights: where there are none, networks are fresh, and streets are drawn;
neither changes how long a forecast takes. Writes `bench.json` (a row per model, scope and back end),
`machine.json` (ceilings, and the rates of reading and scoring) and `bench.md`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from datetime import date
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config, DictAction

from occdistill.autoencoder.light import Light, Lightened
from occdistill.build.builders import (
    build_codec,
    build_light,
    build_network,
    build_teacher,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.build.lineup import DTYPES, positive
from occdistill.data.occ3d import OCC3D
from occdistill.data.voxelize import Sweep, merge
from occdistill.errors import run
from occdistill.evaluation.confusion import confusion
from occdistill.runtime import roofline
from occdistill.runtime.forecaster import BACKENDS, Forecaster, same_noise
from occdistill.runtime.latency import SCOPES, side_by_side
from occdistill.runtime.machine import device_name
from occdistill.store import write_json, write_text

CONFIGS = ("configs/demo.py", "configs/nus.py")
TEACHER_NFE = (10, 5, 2, 1)
PLAIN = ("plain", "float32")
LONG = 2.0  # seconds per plain forecast from which compiling for a CPU takes many minutes
TARGETS = {"generate_decode": 10, "end_to_end": 8}  # times the plain pipeline
LIGHT_TARGET = 20
MERGE_TARGET = 20  # keyframes a second and core


class Line(NamedTuple):
    """What is timed: three rows of the table, one per scope."""

    model: str
    nfe: int
    guidance: float | None
    backend: str
    dtype: str
    decoder: str = "full"
    encoder: str = "full"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("configs", nargs="*", help="one model size each; default: demo and full size")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--backend", nargs="+", choices=BACKENDS, help="default: what the device can")
    add("--repeats", type=positive, default=20, help="timed forecasts per line")
    add("--seconds", type=float, default=240.0, help="fewer repeats where all take longer, but 2")
    add("--quick", action="store_true", help="demo size, no compiled back ends")
    add("--out", type=Path, default=Path("work_dirs/bench"))
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")
    args = parser.parse_args()
    args.configs = args.configs or CONFIGS[: 1 if args.quick else None]
    if args.quick and args.backend is None:
        args.backend = ["plain", "eager"]
    args.dtype = list(dict.fromkeys(["float32", *args.dtype]))
    return args


def main() -> None:
    """Measure everything, then write it."""
    args = parse()
    torch.manual_seed(0)
    ceilings = {dtype: roofline.ceiling(args.device, getattr(torch, dtype)) for dtype in args.dtype}
    machine = {
        "command": shlex.join(["python", *sys.argv]),
        "device": device_name(args.device),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "matmul_gflops": {dtype: c.gflops for dtype, c in ceilings.items()},
        "copy_gbytes_per_s": max(c.gbytes_per_s for c in ceilings.values()),
        "merge_keyframes_per_s": merge_rate(),
        "confusion_clips_per_s": confusion_rate(),
    }
    rows = []
    for path in args.configs:
        rows += bench(path, load_config(path, args.cfg_options), args, ceilings)
    write_json(args.out / "bench.json", rows)
    write_json(args.out / "machine.json", machine)
    text = f"{table(rows, machine)}\n\n{gains(rows)}"
    write_text(args.out / "bench.md", text + "\n")
    print(text)


class Bench:
    """The networks of one config as forecasters."""

    def __init__(self, config: Config, device: str) -> None:
        self.config, self.device = config, device
        self.vae, self.network, self.light = networks(config)
        self.made: dict[tuple, Forecaster] = {}

    def forecaster(self, line: Line) -> Forecaster:
        """Lines that differ in `nfe` share their networks and kernels."""
        key = line[2:]
        if key not in self.made:
            light = {
                name: getattr(self.light, name)
                for name in ("decoder", "encoder")
                if getattr(line, name) == "light"
            }
            vae = Lightened(self.vae, **light) if light else self.vae
            self.made[key] = Forecaster(
                build_codec(self.config, vae), self.network, guidance=line.guidance,
                device=self.device, dtype=getattr(torch, line.dtype), backend=line.backend,
            )  # fmt: skip
        return self.made[key].with_nfe(line.nfe)


def networks(config: Config) -> tuple[torch.nn.Module, torch.nn.Module, Light]:
    """Autoencoder, velocity network and light parts, with weights where there are files."""

    def there(*keys: str) -> bool:
        return all(Path(config.get(f"{key}_checkpoint") or "").is_file() for key in keys)

    trained = there("vae", "teacher")
    vae = build_vae(config, weights=trained)
    network = build_teacher(config) if trained else build_network(config)
    if not (config.get("light_decoder") and config.get("light_encoder")):
        return vae, network, Light()
    return vae, network, build_light(config, vae, weights=trained and there("light"))


def bench(path: str, config: Config, args: argparse.Namespace, ceilings: dict) -> list[dict]:
    """All rows of one model size."""
    models = Bench(config, args.device)
    clip = street(config.data.past, config.data.future, models.vae.grid_shape)
    clip = tuple(x.to(args.device) for x in clip)

    def student(backend: str, dtype: str, **parts: str) -> Line:
        return Line("student", 1, None, backend, dtype, **parts)

    def teachers(backend: str, dtype: str) -> list[Line]:
        return [Line("teacher", nfe, config.guidance, backend, dtype) for nfe in TEACHER_NFE]

    print(f"{path}: counting operations", flush=True)
    light = [{"decoder": "light"}, {"decoder": "light", "encoder": "light"}]
    light = light if models.light.decoder is not None else []
    work = {
        (line.guidance, line.decoder, line.encoder): count_stages(models.forecaster(line), clip)
        for line in (
            student(*PLAIN), teachers(*PLAIN)[-1], *(student(*PLAIN, **some) for some in light)
        )
    }  # fmt: skip

    forecasts: dict[Line, torch.Tensor] = {}

    def prepare(line: Line) -> None:
        """Forecast once: compiles, and keeps what will be compared."""
        line = line._replace(nfe=1)
        if line not in forecasts:
            print(f"{path}: {line.model} {line.backend} {line.dtype} {parts(line._asdict())}")
            (forecasts[line],) = same_noise([models.forecaster(line)], *clip)

    prepare(student(*PLAIN))
    plain = seconds(lambda: same_noise([models.forecaster(student(*PLAIN))], *clip))
    chosen = args.backend or backends(args.device, plain)
    candidates = [student(*pair) for pair in product(chosen, args.dtype)]
    for line in candidates:
        prepare(line)
    trial = {line: models.forecaster(line) for line in candidates}
    trial = side_by_side(trial, *clip, repeats=1 if plain > LONG else 5, warmup=0)

    def best(lines: Iterable[Line]) -> tuple[str, str]:
        line = min(lines, key=lambda line: trial[line]["end_to_end"]["p50_ms"])
        return line.backend, line.dtype

    fastest = [best(c for c in candidates if c.dtype == dtype) for dtype in args.dtype]
    lines = [*teachers(*PLAIN), student(*PLAIN), *candidates, *teachers(*best(candidates))]
    lines += [student(*pair, **some) for pair in (PLAIN, *fastest) for some in light]
    lines = list(dict.fromkeys(lines))
    for line in lines:
        prepare(line)

    def differ(line: Line) -> float:
        """Share of voxels that differ from plain float32, same noise, same parts."""
        line = line._replace(nfe=1)
        plain = line._replace(backend=PLAIN[0], dtype=PLAIN[1])
        return float((forecasts[line] != forecasts[plain]).float().mean())

    print(f"{path}: timing", flush=True)
    forecasters = {line: models.forecaster(line) for line in lines}
    round_ = plain * sum(line.nfe for line in lines)  # a bound
    repeats = int(np.clip(args.seconds / round_, min(2, args.repeats), args.repeats))
    times = side_by_side(forecasters, *clip, repeats=repeats, warmup=0)
    size = "x".join(map(str, models.vae.grid_shape))
    rows = []
    for line, scopes in times.items():
        done = scope_work(work[line.guidance, line.decoder, line.encoder], line.nfe)
        ceiling = ceilings[line.dtype]
        for scope in SCOPES:
            flop, byte = 1e-9 * done[scope].flops, 1e-9 * done[scope].bytes
            rate = scopes[scope]["clips_per_s"]
            rows.append(
                {
                    **line._asdict(),
                    "scope": scope,
                    "size": size,
                    **scopes[scope],
                    "gflops": flop * rate,
                    "ceiling_gflops": ceiling.gflops,
                    "gbytes_per_s": byte * rate,
                    "ceiling_gbytes_per_s": ceiling.gbytes_per_s,
                    "gflop": flop,
                    "gbyte": byte,
                    "voxels_differ": differ(line),
                    "repeats": repeats,
                }
            )
    return rows


def backends(device: str, plain: float) -> list[str]:
    """What to try where nobody chose: all the device can, but nothing that takes an hour."""
    if torch.device(device).type == "cuda":
        return list(BACKENDS)
    if plain < LONG:
        return ["plain", "eager", "aot"]
    print(f"a forecast takes {plain:.1f} s: compiled back ends only on request, --backend aot")
    return ["plain", "eager"]


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


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
    noise = forecaster.noise(1)
    latents = torch.zeros(1, past.shape[1], *noise.shape[2:], device=noise.device)
    condition = forecaster.condition(past, poses, trajectory, latents)

    def encode() -> None:
        forecaster.encode(past[:, -1])
        forecaster.condition(past, poses, trajectory, latents)

    return (
        roofline.work_of(encode),
        roofline.work_of(lambda: forecaster.generate(condition, noise)),
        roofline.work_of(lambda: forecaster.decode(noise)),
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


def merge_rate(sweeps: int = 5, points: int = 34_720) -> float:
    """Keyframes per second and core: sweeps of nuScenes' size, merged, voted on and ray-cast."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (sweeps, 1, 1))
    poses[:, 0, 3] = 3.0 * np.arange(sweeps)
    merged = []
    for pose in poses:
        angle, reach = rng.uniform(0, 2 * np.pi, points), rng.exponential(15.0, points)
        height = rng.uniform(-1.8, 2.0, points)
        cloud = np.stack([reach * np.cos(angle), reach * np.sin(angle), height], 1)
        merged.append(Sweep(cloud.astype(np.float32), rng.integers(0, 17, points), pose))
    return rate(lambda: merge(merged, poses[-1]))


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


def groups(rows: list[dict]) -> list[dict[str, dict]]:
    """Rows of one line together, by scope."""
    step = len(SCOPES)
    return [{r["scope"]: r for r in rows[i : i + step]} for i in range(0, len(rows), step)]


def parts(row: dict) -> str:
    """Decoder and encoder in words."""
    light = [name for name in ("decoder", "encoder") if row[name] == "light"]
    return f"light {' and '.join(light)}" if light else "full"


def table(rows: list[dict], machine: dict) -> str:
    """Markdown for people: a line per model and back end, gains over the first line of its size."""
    ceilings = ", ".join(f"{v:.0f} GFLOP/s {k}" for k, v in machine["matmul_gflops"].items())
    merged = machine["merge_keyframes_per_s"]
    verdict = "met" if merged >= MERGE_TARGET else "missed"
    facts = (
        f"Ceilings measured in this run: matrix product {ceilings}; copy"
        f" {machine['copy_gbytes_per_s']:.1f} GB/s. Merging 5 LiDAR sweeps into a keyframe:"
        f" {merged:.1f} a second and core (target {MERGE_TARGET}, {verdict}); counting confusion"
        f" matrices: {machine['confusion_clips_per_s']:.0f} clips/s. GFLOP and GB are those of the"
        " networks as written, whatever a back end saves."
    )
    columns = ["size", "model", "back end", "autoencoder", *(f"{s} p50 ms (×)" for s in SCOPES)]
    columns += ["end to end p90 / p99 ms", "clips/s", "GFLOP", "% of matmul", "% of copy"]
    columns += ["peak MiB", "voxels that differ"]
    origin = (
        f"`{machine['command']}`: {machine['device']}, {machine['date']}, torch {machine['torch']}."
        " Drawn streets; weights of a size that has no files are drawn too."
    )
    lines = [
        origin,
        "",
        facts,
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    base: dict[str, dict] = {}
    for group in groups(rows):
        head = group[SCOPES[0]]
        first = base.setdefault(head["size"], group)
        cells = [head["size"], f"{head['model']}@{head['nfe']}"]
        cells += [f"{head['backend']} {head['dtype']}", parts(head)]
        cells += [
            f"{group[s]['p50_ms']:.1f} ({first[s]['p50_ms'] / group[s]['p50_ms']:.1f})"
            for s in SCOPES
        ]
        cells += [
            f"{head['p90_ms']:.1f} / {head['p99_ms']:.1f}",
            f"{head['clips_per_s']:.2f}",
            f"{head['gflop']:.1f}",
            f"{100 * head['gflops'] / head['ceiling_gflops']:.0f}",
            f"{100 * head['gbytes_per_s'] / head['ceiling_gbytes_per_s']:.0f}",
            f"{head['peak_mb']:.0f}",
            f"{100 * head['voxels_differ']:.4f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(rows: list[dict]) -> str:
    """How much faster one step is than the plain pipeline, split into its two causes."""
    columns = ["autoencoder", "back end", "scope", "faster", "fewer operations"]
    columns += ["operations a second", "target"]
    lines = []
    for size in dict.fromkeys(row["size"] for row in rows):
        every = [g for g in groups(rows) if g[SCOPES[0]]["size"] == size]
        base, first = every[0], every[0][SCOPES[0]]
        title = (
            f"{size}: student@1 against {first['model']}@{first['nfe']}, guided, run plainly in"
            " float32. A gain in time is fewer operations × more operations a second."
        )
        lines += [title, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        fastest: dict[tuple, dict] = {}  # of each precision
        for group in every:
            head = group[SCOPES[0]]
            key = (parts(head), head["dtype"])
            if head["model"] == "student" and (
                key not in fastest or head["p50_ms"] < fastest[key][SCOPES[0]]["p50_ms"]
            ):
                fastest[key] = group
        for (which, dtype), group in fastest.items():
            for scope, target in TARGETS.items():
                was, now = base[scope], group[scope]
                target = LIGHT_TARGET if which == "light decoder and encoder" else target
                faster, fewer = was["p50_ms"] / now["p50_ms"], was["gflop"] / now["gflop"]
                verdict = "met" if faster >= target else f"missed: {why(now, was)}"
                lines.append(
                    f"| {which} | {now['backend']} {dtype} | {scope} | {faster:.1f}× | {fewer:.1f}×"
                    f" | {faster / fewer:.2f}× | {target}×, {verdict} |"
                )
        lines.append("")
    return "\n".join(lines).rstrip()


def why(row: dict, base: dict) -> str:
    """What stands between a row and its target."""
    share = 100 * row["gflops"] / row["ceiling_gflops"]
    at_best = base["p50_ms"] / (1e3 * row["gflop"] / row["ceiling_gflops"])
    return (
        f"{row['gflop']:.1f} GFLOP run at {share:.0f} % of the matrix-product ceiling, the whole of"
        f" which would give {at_best:.0f}×"
    )


if __name__ == "__main__":
    run(main)

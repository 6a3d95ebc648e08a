"""Every model, scope and back end of one size, timed side by side and checked.

The first line of a size is the pipeline run plainly: the teacher's ten guided steps and its decoder
in eager PyTorch, float32. Everything else is compared with it, forecast by forecast in turn, and
checked: the share of voxels that differ is against plain float32 with the same networks and noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from occdistill.data.voxelize import Sweep, merge
from occdistill.runtime import roofline
from occdistill.runtime.backends import runs
from occdistill.runtime.bench_page import parts
from occdistill.runtime.forecaster import BACKENDS, Forecaster, same_noise
from occdistill.runtime.latency import SCOPES, side_by_side
from occdistill.runtime.machine import device_name

TEACHER_NFE = (10, 5, 2, 1)
PLAIN = ("plain", "float32")
LONG = 2.0  # seconds per plain forecast from which compiling for a CPU takes many minutes


class Line(NamedTuple):
    """What is timed: three rows of the table, one per scope."""

    model: str
    nfe: int
    guidance: float | None
    backend: str
    dtype: str
    decoder: str = "full"
    encoder: str = "full"
    network: str = "full"


def bench(
    title: str,
    forecaster: Callable[[Line], Forecaster],
    ceilings: Mapping[str, roofline.Ceiling],
    guidance: float,
    clip: tuple[torch.Tensor, ...],
    *,
    light: bool = False,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    repeats: int = 20,
    seconds: float = 240.0,
) -> list[dict]:
    """All rows of one model size.

    Args:
        title: of the size, for what is printed on the way.
        forecaster: of a line; lines of the same networks share them.
        ceilings: of the machine, by the precisions to time; float32 among them.
        guidance: of the teacher.
        clip: past, poses and trajectory of one clip, see `Forecaster`.
        light: whether there are a light decoder, encoder and network.
        names: back ends to time; default: what the device can.
        device: where it runs.
        repeats: timed forecasts per line.
        seconds: fewer repeats where all take longer, but two.

    Returns:
        Three rows per line, one per scope of `latency.SCOPES`.
    """
    clip = tuple(x.to(device) for x in clip)
    dtypes = list(ceilings)

    def student(backend: str, dtype: str, **parts: str) -> Line:
        return Line("student", 1, None, backend, dtype, **parts)

    def teachers(backend: str, dtype: str) -> list[Line]:
        return [Line("teacher", nfe, guidance, backend, dtype) for nfe in TEACHER_NFE]

    print(f"{title}: counting operations", flush=True)
    names_of = ("decoder", "encoder", "network")
    swaps = [dict.fromkeys(names_of[: i + 1], "light") for i in range(len(names_of))] * light
    work = {
        which(line): count_stages(forecaster(line), clip)
        for line in (
            student(*PLAIN), teachers(*PLAIN)[-1], *(student(*PLAIN, **some) for some in swaps)
        )
    }  # fmt: skip

    forecasts: dict[Line, torch.Tensor] = {}

    def prepare(line: Line) -> None:
        """Forecast once: compiles, and keeps what will be compared."""
        line = line._replace(nfe=1)
        if line not in forecasts:
            print(f"{title}: {line.model} {line.backend} {line.dtype} {parts(line._asdict())}")
            (forecasts[line],) = same_noise([forecaster(line)], *clip)

    prepare(student(*PLAIN))
    plain = took(lambda: same_noise([forecaster(student(*PLAIN))], *clip))
    chosen = names or backends(device, plain)
    pairs = product(chosen, dtypes)
    candidates = [student(b, d) for b, d in pairs if d == "float32" or possible(b, device, d)]
    for line in candidates:
        prepare(line)
    trial = {line: forecaster(line) for line in candidates}
    trial = side_by_side(trial, *clip, repeats=1 if plain > LONG else 5, warmup=0)

    def best(lines: Iterable[Line]) -> tuple[str, str]:
        line = min(lines, key=lambda line: trial[line]["end_to_end"]["p50_ms"])
        return line.backend, line.dtype

    fastest = [best(c for c in candidates if c.dtype == dtype) for dtype in dtypes]
    lines = [*teachers(*PLAIN), student(*PLAIN), *candidates, *teachers(*best(candidates))]
    lines += [student(*pair, **some) for pair in (PLAIN, *fastest) for some in swaps]
    lines = list(dict.fromkeys(lines))
    for line in lines:
        prepare(line)

    def differ(line: Line) -> float:
        """Share of voxels that differ from plain float32, same noise, same parts."""
        line = line._replace(nfe=1)
        plain = line._replace(backend=PLAIN[0], dtype=PLAIN[1])
        return float((forecasts[line] != forecasts[plain]).float().mean())

    print(f"{title}: timing", flush=True)
    forecasters = {line: forecaster(line) for line in lines}
    round_ = plain * sum(line.nfe for line in lines)  # a bound
    repeats = int(np.clip(seconds / round_, min(2, repeats), repeats))
    times = side_by_side(forecasters, *clip, repeats=repeats, warmup=0)
    size = "x".join(map(str, clip[0].shape[2:]))
    rows = []
    for line, scopes in times.items():
        done = scope_work(work[which(line)], line.nfe)
        ceiling = ceilings[line.dtype]
        for scope in SCOPES:
            flop, byte = 1e-9 * done[scope].flops, 1e-9 * done[scope].bytes
            rate = scopes[scope]["clips_per_s"]
            rows.append(
                {
                    **line._asdict(),
                    "tf32": forecasters[line].tf32,
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


def which(line: Line) -> tuple:
    """The networks of a line, and whether they are guided."""
    return line.guidance, line.decoder, line.encoder, line.network


def backends(device: str, plain: float) -> list[str]:
    """What to try where nobody chose: all the device can, but nothing that takes an hour."""
    if torch.device(device).type == "cuda":
        return [name for name in BACKENDS if possible(name, device)]
    if plain < LONG:
        return ["plain", "eager", "aot", *(["onnx"] if possible("onnx", device) else [])]
    print(f"a forecast takes {plain:.1f} s: compiled back ends only on request, --backend aot")
    return ["plain", "eager"]


def possible(backend: str, device: str, dtype: str = "float32") -> bool:
    """Whether a back end can run here in this precision."""
    return runs(backend, torch.device(device), getattr(torch, dtype))


def took(function: Callable[[], object]) -> float:
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


def machine_facts(device: str, ceilings: Mapping[str, roofline.Ceiling]) -> dict:
    """What a table of timings says about the machine and its limits."""
    return {
        "device": device_name(device),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "matmul_gflops": {dtype: c.gflops for dtype, c in ceilings.items()},
        "copy_gbytes_per_s": max(c.gbytes_per_s for c in ceilings.values()),
        "merge_keyframes_per_s": merge_rate(),
    }


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


def rate(function: Callable[[], object], seconds: float = 2.0) -> float:
    """Calls per second, after one that may compile."""
    function()
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        function()
        calls += 1
    return calls / elapsed

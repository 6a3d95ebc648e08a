"""One timing table of this machine: every model, scope and back end, at demo and at full size.

    python tools/bench.py                          # configs/demo.py and configs/nus.py
    python tools/bench.py --quick                  # demo size, nothing compiled
    python tools/bench.py configs/nus.py --backend plain eager aot --out benchmarks

Needs no data and no weights: where there are none, networks are fresh, and streets are drawn;
neither changes how long a forecast takes. Writes `bench.json` (a row per model, scope and back end),
`machine.json` (ceilings, and the rates of reading and scoring) and `bench.md`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from _options import DTYPES, add_config, add_device, parser, positive
from mmengine.config import Config

from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.data.occ3d import OCC3D
from occdistill.errors import run
from occdistill.evaluation.confusion import confusion
from occdistill.runtime import roofline
from occdistill.runtime.bench import bench, merge_rate, rate, street
from occdistill.runtime.bench_page import bench_table, gains
from occdistill.runtime.forecaster import BACKENDS
from occdistill.runtime.machine import device_name
from occdistill.store import write_json, write_text

CONFIGS = ("configs/demo.py", "configs/nus.py")


def parse() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    add = options.add_argument
    add_config(add, nargs="*", help="one model size each; default: demo and full size")
    add_device(add)
    add("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--backend", nargs="+", choices=BACKENDS, help="default: what the device can")
    add("--repeats", type=positive, default=20, help="timed forecasts per line")
    add("--seconds", type=float, default=240.0, help="fewer repeats where all take longer, but 2")
    add("--quick", action="store_true", help="demo size, no compiled back ends")
    add("--out", type=Path, default=Path("work_dirs/bench"))
    args = options.parse_args()
    args.config = args.config or CONFIGS[: 1 if args.quick else None]
    if args.quick and args.backend is None:
        args.backend = ["plain", "eager"]
    args.dtype = list(dict.fromkeys(["float32", *args.dtype]))
    return args


def models_of(config: Config) -> Models:
    """Networks with weights where there are files; light parts belong to the weights."""
    missing = {
        name
        for name in ("vae", "teacher", "light")
        if not Path(config.get(f"{name}_checkpoint") or "").is_file()
    }
    return Models(config, {"vae", "teacher", "light"} if missing - {"light"} else missing)


def confusion_rate(frames: int = 6) -> float:
    """Clips per second of counting full-size confusion matrices."""
    truth = street(frames, 0, OCC3D.shape)[0][0].numpy()
    forecast = np.roll(truth, 3, axis=1)
    return rate(lambda: confusion(forecast, truth))


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
    for path in args.config:
        config = load_config(path, args.cfg_options)
        models = models_of(config)
        rows += bench(
            path,
            lambda line, models=models: models.forecaster(
                None, line.nfe, line.guidance, line.decoder, line.encoder, device=args.device,
                dtype=getattr(torch, line.dtype), backend=line.backend,
            ),
            street(config.data.past, config.data.future, models.vae.grid_shape),
            ceilings,
            guidance=config.guidance,
            light=bool(config.get("light_decoder") and config.get("light_encoder")),
            names=args.backend,
            device=args.device,
            repeats=args.repeats,
            seconds=args.seconds,
        )  # fmt: skip
    write_json(args.out / "bench.json", rows)
    write_json(args.out / "machine.json", machine)
    text = f"{bench_table(rows, machine)}\n\n{gains(rows)}"
    write_text(args.out / "bench.md", text + "\n")
    print(text)


if __name__ == "__main__":
    run(main)

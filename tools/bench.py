"""One timing table of this machine: every model, scope and back end, at demo and at full size.

    python tools/bench.py                          # configs/demo.py and configs/nus.py
    python tools/bench.py --quick                  # demo size, nothing compiled
    python tools/bench.py configs/nus.py --backend plain eager aot --out benchmarks

Needs no data and no weights: where there are none, networks are fresh, and streets are drawn;
neither changes how long a forecast takes. Writes `bench.json` (a row per model, scope and back end),
`machine.json` (ceilings, and the rates of reading and scoring) and `bench.md`.
"""

import argparse
import shlex
import sys
from collections.abc import Callable

import _options as common
import numpy as np
import torch

from occdistill.build.models import Models
from occdistill.data.occ3d import OCC3D
from occdistill.errors import run
from occdistill.evaluation.confusion import confusion
from occdistill.runtime import backends, roofline
from occdistill.runtime.bench import PLAIN, Line, bench, machine_facts, rate, street
from occdistill.runtime.bench_page import bench_table, gains
from occdistill.runtime.forecaster import BACKENDS, Forecaster
from occdistill.store import check_folder, write_json, write_text

CONFIGS = ("configs/demo.py", "configs/nus.py")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add, nargs="*", help="one model size each; default: demo and full size")
    common.add_device(add)
    add("--dtype", nargs="+", choices=common.DTYPES, default=["float32", "bfloat16"])
    add("--backend", nargs="+", choices=BACKENDS, help="default: what the device can")
    add("--repeats", type=common.positive, default=20, help="timed forecasts per line")
    add("--seconds", type=float, default=240.0, help="fewer repeats where all take longer, but 2")
    add("--quick", action="store_true", help="demo size, no compiled back ends")
    add("--out", type=check_folder, default="work_dirs/bench")
    args = parser.parse_args()
    args.config = args.config or CONFIGS[: 1 if args.quick else None]
    if args.quick and args.backend is None:
        args.backend = ["plain", "eager"]
    args.dtype = list(dict.fromkeys(["float32", *args.dtype]))
    return args


def confusion_rate(frames: int = 6) -> float:
    """Clips per second of counting full-size confusion matrices."""
    truth = street(frames, 0, OCC3D.shape)[0][0].numpy()
    forecast = np.roll(truth, 3, axis=1)
    return rate(lambda: confusion(forecast, truth))


def forecaster_of(models: Models, device: str) -> Callable[[Line], Forecaster]:
    """The forecaster that a line of the table times."""
    return lambda line: models.forecaster(
        models.light_network if line.network == "light" else None,
        line.nfe, line.guidance, line.decoder, line.encoder, device=device,
        dtype=getattr(torch, line.dtype), backend=line.backend,
        **({"allow_tf32": False} if (line.backend, line.dtype) == PLAIN else {}),
    )  # fmt: skip


def main() -> None:
    """Measure everything, then write it."""
    args = parse()
    backends.check("plain", torch.device(args.device))
    torch.manual_seed(0)
    ceilings = {dtype: roofline.ceiling(args.device, getattr(torch, dtype)) for dtype in args.dtype}
    machine = {
        "command": shlex.join(["python", *sys.argv]),
        **machine_facts(args.device, ceilings),
        "confusion_clips_per_s": confusion_rate(),
    }
    rows = []
    for path in args.config:
        config = common.read_config(args, path)
        models = Models.of_what_is_there(config)
        rows += bench(
            path, forecaster_of(models, args.device), ceilings, config.guidance,
            street(config.data.past, config.data.future, models.vae.grid_shape),
            light=all(config.get(f"light_{part}") for part in ("decoder", "encoder", "network")),
            names=args.backend, device=args.device, repeats=args.repeats, seconds=args.seconds,
        )  # fmt: skip
    write_json(args.out / "bench.json", rows)
    write_json(args.out / "machine.json", machine)
    text = f"{bench_table(rows, machine)}\n\n{gains(rows)}"
    write_text(args.out / "bench.md", text + "\n")
    print(text)


if __name__ == "__main__":
    run(main)

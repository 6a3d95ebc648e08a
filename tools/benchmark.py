"""Time teacher and student side by side.

    python tools/benchmark.py CONFIG CHECKPOINT [--nfe 10 5 2 1] [--repeats 20]

Warmed up, synchronised, batch 1, from labels on the device to labels on the device, in three
scopes; the models take turns. A back end or precision other than plain float32 is checked against
that on clips of the validation split. Writes `benchmark.json` and `benchmark.md`.
"""

import argparse
from itertools import product
from pathlib import Path

import _options as common
import numpy as np
import torch

from occdistill.build.builders import build_dataset
from occdistill.build.lineup import STEPS, lineup
from occdistill.build.models import Models
from occdistill.errors import UserError, run
from occdistill.evaluation.agreement import agreement
from occdistill.runtime.bench_page import benchmark_table
from occdistill.runtime.latency import SCOPES, side_by_side
from occdistill.runtime.machine import device_name
from occdistill.store import write_json, write_text


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add)
    add("checkpoint", help="a distilled student")
    add("--nfe", type=common.positive, nargs="*", default=list(STEPS), help="of the teacher")
    add("--student-nfe", type=common.positive, nargs="+", default=[1])
    add("--repeats", type=common.positive, default=20)
    add("--warmup", type=int, default=3)
    add("--batch-size", type=common.positive, default=1)
    add("--check", type=int, default=4, help="clips to compare with plain float32")
    add("--out", type=Path, help="folder; default: the config's work_dir")
    common.add_forecaster(add)
    args = parser.parse_args()
    if min(args.warmup, args.check) < 0:
        raise UserError("warm-up and clips to check start at 0")
    return args


def main() -> None:
    """Measure, print, write."""
    args = parse()
    config, options = common.read_config(args), common.forecaster_options(args)
    out, models = common.out_folder(args, config), Models(config)
    entries = lineup(models, args.checkpoint, args.nfe, args.student_nfe, **options)
    dataset = build_dataset(config, "val")
    item = dataset[0]
    given = (item[key] for key in ("past", "poses", "trajectory"))
    clip = [one[None].expand(args.batch_size, *one.shape) for one in given]
    forecasters = {entry.name: entry.forecaster for entry in entries}
    times = side_by_side(forecasters, *clip, repeats=args.repeats, warmup=args.warmup)
    setting = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "dtype": str(entries[0].forecaster.dtype).removeprefix("torch."),
        "backend": entries[0].forecaster.backend,
        "tf32": entries[0].forecaster.tf32,
        **{key: getattr(args, key) for key in ("batch_size", "repeats")},
        **dict(decoder=entries[0].decoder, encoder=entries[0].encoder, network=args.network[0]),
        "grid": list(models.vae.grid_shape),
    }
    agreements = {}
    exact = [setting[key] for key in ("backend", "dtype", "tf32")] == ["plain", "float32", False]
    if args.check and not exact:
        plain = {**options, "backend": "plain", "dtype": torch.float32, "allow_tf32": False}
        nfe = [min(args.nfe)] if args.nfe else [], [min(args.student_nfe)]
        items = [dataset[int(i)] for i in np.linspace(0, len(dataset) - 1, args.check)]
        agreements = {
            reference.name: agreement(reference.forecaster, forecasters[reference.name], items)
            for reference in lineup(models, args.checkpoint, *nfe, **plain)
        }
    rows = [
        dict(model=entry.title, nfe=entry.forecaster.nfe, guidance=entry.forecaster.guidance)
        | dict(scope=scope, **times[entry.name][scope])
        for entry, scope in product(entries, SCOPES)
    ]
    text = benchmark_table(rows, setting)
    how = f"{setting['backend']} {setting['dtype']} against plain float32"
    text += "".join(f"\n\n{name}, {how}: {found}." for name, found in agreements.items())
    print(text)
    result = {"setting": setting, "rows": rows}
    result["agreement"] = {name: found._asdict() for name, found in agreements.items()}
    write_json(out / "benchmark.json", result)
    write_text(out / "benchmark.md", text + "\n")
    print(f"\nwritten: {out / 'benchmark.json'} {out / 'benchmark.md'}")


if __name__ == "__main__":
    run(main)

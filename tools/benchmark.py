"""Time teacher and student side by side.

    python tools/benchmark.py CONFIG CHECKPOINT [--nfe 10 5 2 1] [--repeats 20]

Warmed up, synchronised, batch 1, from labels on the device to labels on the device, in three
scopes; the models take turns. A back end or precision other than plain float32 is checked against
that on clips of the validation split. Writes `benchmark.json` and `benchmark.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.lineup import add_options, forecaster_options, lineup, positive
from occdistill.errors import UserError, run
from occdistill.evaluation.agreement import agreement
from occdistill.runtime.latency import SCOPES, side_by_side
from occdistill.runtime.machine import device_name
from occdistill.store import write_json, write_text


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument(
        "--nfe", type=positive, nargs="*", default=[10, 5, 2, 1], help="of the teacher"
    )
    parser.add_argument("--student-nfe", type=positive, nargs="+", default=[1])
    parser.add_argument("--repeats", type=positive, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--batch-size", type=positive, default=1)
    parser.add_argument("--check", type=int, default=4, help="clips to compare with plain float32")
    parser.add_argument("--out", type=Path, help="folder; default: the config's work_dir")
    args = parser.parse_args()
    if min(args.warmup, args.check) < 0:
        raise UserError("warm-up and clips to check start at 0")

    config = load_config(args.config, args.cfg_options)
    options = forecaster_options(args)
    forecasters = lineup(config, args.checkpoint, args.nfe, args.student_nfe, **options)
    dataset = build_dataset(config, "val")
    item = dataset[0]
    clip = [
        item[key][None].expand(args.batch_size, *item[key].shape)
        for key in ("past", "poses", "trajectory")
    ]
    times = side_by_side(forecasters, *clip, repeats=args.repeats, warmup=args.warmup)
    setting = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "dtype": args.dtype,
        "backend": args.backend,
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        "decoder": args.decoder,
        "encoder": args.encoder,
        "grid": list(forecasters[next(iter(forecasters))].codec.vae.grid_shape),
    }
    agreements = {}
    if args.check and (args.backend, args.dtype) != ("plain", "float32"):
        nfe = [min(args.nfe)] if args.nfe else [], [min(args.student_nfe)]
        plain = lineup(
            config, args.checkpoint, *nfe, **{**options, "backend": "plain", "dtype": torch.float32}
        )
        items = [dataset[int(i)] for i in np.linspace(0, len(dataset) - 1, args.check)]
        agreements = {
            name: agreement(reference, forecasters[name], items)
            for name, reference in plain.items()
        }
    rows = [
        {
            "model": name.split("@")[0],
            "nfe": forecasters[name].nfe,
            "guidance": forecasters[name].guidance,
            "scope": scope,
            **times[name][scope],
        }
        for name in forecasters
        for scope in SCOPES
    ]
    text = table(rows, setting)
    for name, found in agreements.items():
        text += f"\n\n{name}, {args.backend} {args.dtype} against plain float32: {found}."
    print(text)
    out = args.out or Path(config.work_dir)
    result = {"setting": setting, "rows": rows}
    result["agreement"] = {name: found._asdict() for name, found in agreements.items()}
    write_json(out / "benchmark.json", result)
    write_text(out / "benchmark.md", text + "\n")
    print(f"\nwritten: {out / 'benchmark.json'} {out / 'benchmark.md'}")


def table(rows: list[dict], setting: dict) -> str:
    """Markdown: a line per model, its three scopes beside each other, gains over the first."""
    lines = [
        " · ".join(f"{key} {value}" for key, value in setting.items()),
        "",
        "| model | " + " | ".join(f"{scope} clips/s, p50 / p90 / p99 ms" for scope in SCOPES)
        + " | peak MiB | end to end × |",
        "|" + "---|" * (len(SCOPES) + 3),
    ]  # fmt: skip
    first = rows[0]["clips_per_s"]
    for i in range(0, len(rows), len(SCOPES)):
        group = rows[i : i + len(SCOPES)]
        cells = [
            f"{r['clips_per_s']:.2f}, {r['p50_ms']:.1f} / {r['p90_ms']:.1f} / {r['p99_ms']:.1f}"
            for r in group
        ]
        head = f"{group[0]['model']}@{group[0]['nfe']}"
        gain = group[0]["clips_per_s"] / first
        cells += [f"{group[0]['peak_mb']:.0f}", f"{gain:.1f}"]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)

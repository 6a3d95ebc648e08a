"""`report.json` and `report.md`: every number with what a reader needs to trust it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from occdistill.data.clips import ClipDataset
from occdistill.evaluation import disturb, doubt
from occdistill.evaluation.measures import measures, subsets
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.published import PUBLISHED, Published
from occdistill.runtime.machine import model_name
from occdistill.store import write_json, write_text

SHOWN = ("1.0s", "2.0s", "3.0s", "avg@1,2,3s", "avg@all")
SCOPES = ("end_to_end", "generate_decode", "generate")
COLUMNS = (
    "checkpoint", "vae", "decoder", "encoder", "cache", "data", "temperature", "dtype", "tf32",
    "seed", "git_commit",
)  # fmt: skip
FACTS = (*COLUMNS, "align", "carry", "planner")  # of every row, None where they don't apply


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Short hash of the code's commit, `+` if the working tree differs; None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*"]
    command += ["--dirty=+", "--abbrev=12"]
    try:
        answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, device and threads of this process."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": model_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def plain(value: Any) -> Any:
    """The same value in JSON's types; NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_report(
    rows: Sequence[dict],
    dataset: dict[str, Any] | None,
    device: str = "cpu",
    published: Sequence[Published] = PUBLISHED,
) -> dict:
    """The content of `report.json`: ours and, apart from it, what others published."""
    return plain(
        {
            "dataset": dataset,
            "environment": environment(device),
            "rows": list(rows),
            "published": [asdict(p) for p in published],
        }
    )


def describe_dataset(dataset: ClipDataset, version: str, split: str) -> dict[str, Any]:
    """Facts about a data set for the report's head."""
    grid = dataset.grid
    return {
        "version": version,
        "split": split,
        "past_from": dataset.reader.past_from,
        "scenes": len(dataset.scenes),
        "clips": len(dataset),
        "bad_frames": dataset.bad_frames,
        "past": dataset.past,
        "future": dataset.future,
        "grid": {"shape": grid.shape, "voxel_size": grid.voxel_size, "origin": grid.origin},
        "fingerprint": dataset.fingerprint,
    }


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; numbers get two decimals, None and NaN a dash."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def markdown(report: dict) -> str:
    """The report as a page: scores per protocol, speed, facts, then the published block."""
    data, machine, rows = report["dataset"], report["environment"], report["rows"]
    unique = _unique(rows)
    head = f"{_about(data)} Percent. {machine['device']}, torch {machine['torch']}."
    parts = ["# Forecast scores", head]
    parts += [f"Truth: {labels}." for labels in {r["labels"] for r in rows if "labels" in r}]
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    if len(protocols) > 1:
        parts += _rules_block(protocols, rows)
    for name in protocols:
        parts += _protocol_block(name, [row for row in rows if row["protocol"] == name])
    parts += _measures_block(rows)
    for title, about, header, body in (*doubt.tables(unique), *disturb.tables(unique)):
        parts += [f"## {title}", about, table(header, body)]
    parts += ["## What made these numbers", _facts_table(rows)]
    if report["published"]:
        parts += [_PUBLISHED_HEAD, _published_table(report["published"])]
    return "\n\n".join(parts) + "\n"


def _about(data: dict | None) -> str:
    if data is None:
        return "Scored anew from counts."
    shape = "×".join(map(str, data["grid"]["shape"]))
    return (
        f"{data['version']}, {data['split']}: {data['scenes']} scenes, {data['clips']} clips of "
        f"{data['past']} past and {data['future']} future keyframes, {shape} voxels of "
        f"{data['grid']['voxel_size']:g} m.{_left_out(data.get('bad_frames'))}"
    )


def _left_out(bad: dict[str, int] | None) -> str:
    if not bad or not bad["keyframes"]:
        return ""
    return (
        f" Left out: {bad['clips_left_out']} clips, for {bad['keyframes']} keyframes that cannot be"
        " used (--skip-bad-frames)."
    )


_PUBLISHED_HEAD = """## Published elsewhere (not reproduced here)

On Occ3D-nuScenes validation scenes, ground-truth occupancy as input. Comparable with a row above \
only if that row was scored on the same data, under the same protocol and conditioning class."""


def _rules_block(protocols: list[str], rows: list[dict]) -> list[str]:
    """The same predictions under every rule: how far the rules alone move a number."""
    body = []
    for row in _unique(rows):
        same = {r["protocol"]: r for r in rows if _key(r) == _key(row)}
        cells = [f"{cell(same[p]['headline']['mIoU'])} ({_clips(same[p])})" for p in protocols]
        body.append([row["model"], row["nfe"], *cells])
    about = (
        "mIoU of the same predictions, as each protocol's own table would show it (clips in "
        "brackets). Nothing but windows, absent and zero classes, masks and averages differs."
    )
    return ["## One forecast, every rule", about, table(["model", "NFE", *protocols], body)]


def _protocol_block(name: str, rows: list[dict]) -> list[str]:
    protocol = PROTOCOLS[name]
    remark = f" {protocol.remarks[:1].upper()}{protocol.remarks[1:]}." if protocol.remarks else ""
    about = (
        f"After {protocol.source}.{remark} Its own table shows {protocol.average}; conditioning "
        f"of its models: {protocol.conditioning}."
    )
    parts = [f"## Protocol `{name}`", about]
    header = ["model", "NFE", "guidance", "conditioning", "clips"]
    header += [f"{m} {h}" for m in ("mIoU", "IoU") for h in SHOWN]
    timed = any(row.get("fps") for row in rows)
    header += [f"clips/s {s.replace('_', ' ')}" for s in SCOPES if timed]
    body = []
    for row in rows:
        line = [row["model"], row["nfe"], row["guidance"], row["conditioning"], _clips(row)]
        line += [row[m].get(h) for m in ("mIoU", "IoU") for h in SHOWN]
        line += [(row.get("fps") or {}).get(s) for s in SCOPES if timed]
        body.append(line)
    parts.append(table(header, body))
    absent = sorted({c for row in rows for names in row["absent"].values() for c in names})
    if absent:
        treated = {
            "nan": "not averaged",
            "one": "scored 1 by this protocol",
            "union": "not averaged unless predicted",
        }[protocol.rules.absent]
        parts.append(f"Absent from the truth at some horizon ({treated}): {', '.join(absent)}.")
    return parts


def measure_columns() -> dict[str, tuple[str, ...]]:
    """Titles of all columns beyond mIoU to their keys in a row's `measures`: parts of the voxels
    first, then measure by measure, those of few columns first.
    """
    walked = sorted(measures().values(), key=lambda measure: len(measure.columns))
    return {**subsets.COLUMNS, **{k: v for m in walked for k, v in m.columns.items()}}


def _measures_block(rows: list[dict]) -> list[str]:
    """One line per row, one column per measure that any row has."""
    rows = _unique(rows)

    def value(row: dict, path: tuple[str, ...]) -> Any:
        found = row.get("measures", {})
        for key in path:
            found = (found or {}).get(key)
        return found

    shown = {
        k: p for k, p in measure_columns().items() if any(value(r, p) is not None for r in rows)
    }
    if not shown:
        return []
    body = [[r["model"], r["nfe"], *(value(r, p) for p in shown.values())] for r in rows]
    about = "mIoU of parts is avg@1,2,3s over all clips counted; RayIoU and diversity are avg@all."
    return ["## Beyond mIoU", about, table(["model", "NFE", *shown], body)]


def _unique(rows: list[dict]) -> list[dict]:
    """Each row once, whatever the number of protocols it was scored under."""
    return list({_key(row): row for row in rows}.values())


def _key(row: dict) -> tuple:
    return row["model"], row["nfe"]


def _clips(row: dict) -> str:
    done, expected = row["clips"], row["clips_expected"]
    return str(done) if done == expected else f"{done} of {expected}"


def _facts_table(rows: list[dict]) -> str:
    body = [[r["model"], r["nfe"], *(_fact(r.get(f)) for f in COLUMNS)] for r in _unique(rows)]
    return table(["model", "NFE", *COLUMNS], body)


def _fact(value: Any) -> Any:
    return value[:12] if isinstance(value, str) else value


def _published_table(rows: list[dict]) -> str:
    header = ["model", "NFE", "conditioning", "mIoU 1 / 2 / 3 s / avg", "IoU 1 / 2 / 3 s / avg"]
    header += ["protocol", "source", "remark"]
    body = [
        [
            p["model"],
            p["nfe"],
            p["conditioning"],
            " / ".join(cell(v) for v in p["miou"]),
            " / ".join(cell(v) for v in p["iou"]),
            f"`{p['protocol']}`, {PROTOCOLS[p['protocol']].clips} clips",
            p["source"],
            p["remark"],
        ]
        for p in rows
    ]
    return table(header, body)


def write_report(folder: str | Path, report: dict, name: str = "report") -> tuple[Path, Path]:
    """Write `name.json` and `name.md`; returns both paths."""
    paths = Path(folder) / f"{name}.json", Path(folder) / f"{name}.md"
    write_json(paths[0], report)
    write_text(paths[1], markdown(report))
    return paths

"""A forecaster as ONNX files for programs that aren't this project's, checked before they are given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import occdistill
from occdistill.data.occ3d import CLASS_NAMES
from occdistill.errors import UserError
from occdistill.evaluation.agreement import Agreement, agreement
from occdistill.flow.solver import shifted_grid
from occdistill.runtime import int8, onnx
from occdistill.runtime.backends import by_row
from occdistill.runtime.forecaster import Forecaster
from occdistill.store import check_folder, write_json

MANIFEST = "manifest.json"
HOW = (
    "past latents: encoder of each frame, stacked; aligned: encoder of each past frame seen from each"
    " future ego frame, newest first, channels joined. x = temperature * standard normal noise; for t,"
    " r of neighbouring times: x += (r - t) * flow(x, t, …). Classes: decoder of each frame of x."
)


def hand_over(
    plain: Forecaster,
    items: Sequence[Mapping[str, Tensor]],
    out: str | Path,
    limit: float,
    about: Mapping[str, Any],
    calibrate: Sequence[Mapping[str, Tensor]] = (),
) -> Agreement:
    """Write `encoder.onnx`, `flow.onnx`, `decoder.onnx` and `manifest.json`, if they forecast as the
    networks do.

    Args:
        plain: of back end `plain` in float32, on the CPU: what is written, and compared with.
        items: of a `ClipDataset`, on which they are compared.
        out: the folder; nothing in it changes unless they agree.
        limit: share of voxels that may have another class, 0 to 1.
        about: what else the manifest tells of the model.
        calibrate: clips of the training split, for files of 8-bit integers; none: float32.

    Returns:
        How the files agree with the networks.

    Raises:
        UserError: they don't, or there is no ONNX Runtime.
    """
    onnx.require(plain.device)
    out = check_folder(out)
    with TemporaryDirectory(".tmp", ".onnx.", out) as place:
        sessions, given = {}, int8.rows(plain, calibrate)
        for name, example in _rows(plain, items[0]):
            path, stage = Path(place) / f"{name}.onnx", plain.stages[name]
            onnx.write(stage, example, path)
            if given[name]:
                int8.quantise(path, given[name], onnx.arguments(stage))
            sessions[name] = onnx.Session(path, onnx.arguments(stage))
        exported = plain.with_stages({name: by_row(one) for name, one in sessions.items()})
        found = agreement(plain, exported, items)
        if not found.differ <= limit:
            raise UserError(
                f"not handed over: of the exported files' voxels {100 * found.differ:.4f} % differ from"
                f" plain float32, more than {100 * limit:g} %, on {found.clips} clips; --limit allows"
                " more"
            )
        files = {}
        for name, session in sessions.items():
            path = Path(place) / f"{name}.onnx"
            files[path.name] = {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "inputs": {k: {"shape": s, "type": t} for k, (s, t) in session.takes.items()},
                "output": onnx.RESULT,
                "dtype": "int8" if given[name] else "float32",
            }
            os.replace(path, out / path.name)
    agreed = {**found._asdict(), "limit": limit, "against": "plain float32"}
    made_with = {"occdistill": occdistill.__version__, "torch": str(torch.__version__)}
    content = {**about, **_settings(plain), "files": files, "agreement": agreed}
    write_json(out / MANIFEST, {**content, "opset": onnx.OPSET, "made_with": made_with})
    return found


def _rows(plain: Forecaster, item: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple]]:
    """Each stage's name and an example of its arguments, one row each."""
    past, poses, trajectory = (item[key][None] for key in ("past", "poses", "trajectory"))
    c = plain.condition(past, poses, trajectory)
    x, t = plain.noise(1), torch.zeros(1)
    yield "encoder", (past[0, -1:],)
    yield "flow", (x, t, c.past, c.aligned, c.trajectory, *_end(plain, x))
    yield "decoder", (x[0, :1],)


def _end(plain: Forecaster, x: Tensor) -> tuple[Tensor, ...]:
    return (x.new_ones(1),) if plain.stages["flow"].two_time else ()


def _settings(plain: Forecaster) -> dict[str, Any]:
    """What whoever runs the files has to know."""
    codec, grid = plain.codec, plain.grid
    return {
        "past": plain.past,
        "future": codec.future,
        "seconds_between_frames": 0.5,
        "grid": {"shape": grid.shape, "voxel_size": grid.voxel_size, "origin": grid.origin},
        "classes": CLASS_NAMES,
        "conditioning": {"kind": codec.conditioning, "align": codec.align, "carry": codec.carry},
        "guidance_inside": plain.guidance,
        "times": shifted_grid(plain.nfe, plain.shift).tolist(),
        "temperature": plain.temperature,
        "noised_again_after_each_step": plain.renoise,
        "how": HOW,
    }

"""The networks of a forecast in 8-bit integers, by ONNX Runtime on a CPU.

Convolutions and matrix products are done on integers q with x ≈ scale · (q − zero). Weights have a
scale per output channel and zero = 0. What flows in has one scale and zero per tensor, from the
range that it took while plain networks forecast a few clips of the training split. The forecaster
is given to nobody whose voxels change too often on other clips of that split.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from occdistill.checkpoint import fingerprint
from occdistill.errors import UserError
from occdistill.runtime import onnx
from occdistill.runtime.backends import Packages, by_row, is_sparse
from occdistill.runtime.forecaster import Forecaster, disagreement, same_noise

CLIPS = 4  # that it is calibrated on, and as many to check it
LIMIT = 0.005  # share of voxels that may have another class
OPERATORS = ("Conv", "MatMul", "Gemm")
KEYS = ("past", "poses", "trajectory")
Clips = Sequence[Mapping[str, Tensor]]


def asked(
    backend: str = "",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    **others: Any,
) -> bool:
    """Whether a forecaster's options mean 8-bit integers, where they can be had."""
    return (backend, torch.device(device).type, dtype) == ("onnx", "cpu", torch.int8)


def in_int8(
    plain: Forecaster, exact: Forecaster, calibrate: Clips, check: Clips, limit: float = LIMIT
) -> Forecaster:
    """The same forecaster in 8-bit integers. Its files are kept in the user's cache.

    Args:
        plain: of back end `plain` in float32 on the CPU: what is quantised, and compared with.
        exact: the same of back end `onnx`, for what isn't quantised.
        calibrate: items of a `ClipDataset` of the training split.
        check: others, on which the two are compared.
        limit: share of voxels that may have another class, 0 to 1.

    Raises:
        UserError: more voxels have, or there are no clips.
    """
    if not calibrate or not check:
        raise UserError(
            "int8 takes two clips of the training split or more, and there are"
            f" {len(calibrate) + len(check)}; use --dtype float32"
        )
    parts = Int8(plain, [*calibrate, *check], limit)

    def make(parts: Int8, example: tuple[Tensor], path: Path) -> None:
        with TemporaryDirectory(dir=path.parent) as folder:
            files = {name: Path(folder) / f"{name}.onnx" for name in parts.stages}
            given = rows(plain, calibrate)
            for name, file in files.items():
                onnx.write(parts.stages[name], given[name][0], file)
                quantise(file, given[name], onnx.arguments(parts.stages[name]))
            with zipfile.ZipFile(path, "w") as archive:
                for name, file in files.items():
                    archive.write(file, name)
        ours = load(str(path))
        differ = sum(disagreement(plain, ours, *_known(clip)) for clip in check) / len(check)
        if not differ <= limit:
            raise UserError(
                f"these networks aren't run in int8: {100 * differ:.4f} % of the voxels differ from"
                f" plain float32, more than {100 * limit:g} %, on {len(check)} clips of the training"
                " split; use --dtype float32"
            )

    def load(path: str) -> Forecaster:
        with zipfile.ZipFile(path) as archive:
            sessions = {
                name: onnx.Session(archive.read(name), onnx.arguments(stage))
                for name, stage in parts.stages.items()
            }
        found = {name: by_row(session) for name, session in sessions.items()}
        result = exact.with_stages({**exact.stages, **found})
        result.dtype = torch.int8
        return result

    return Packages(parts, ".zip", make, load)((calibrate[0]["past"],))


class Int8(nn.Module):
    """The stages that are quantised, and all else that the files depend on."""

    def __init__(self, plain: Forecaster, clips: Clips, limit: float) -> None:
        import onnxruntime

        super().__init__()
        self.stages = nn.ModuleDict(
            (name, stage) for name, stage in plain.stages.items() if not is_sparse(stage)
        )
        self.nfe, self.shift, self.renoise = plain.nfe, plain.shift, plain.renoise
        self.temperature, self.limit = plain.temperature, limit
        known = {f"{i}.{key}": clip[key] for i, clip in enumerate(clips) for key in KEYS}
        self.clips, self.runtime = fingerprint(known), onnxruntime.__version__


def rows(plain: Forecaster, clips: Clips) -> dict[str, list[tuple[Tensor | None, ...]]]:
    """What each stage is given while a forecaster forecasts clips, one row each."""
    seen = {name: [] for name in plain.stages}

    def watched(name: str):
        def run(*row: Tensor | None) -> Tensor:
            seen[name].append(row)
            return plain.stages[name](*row)

        return by_row(run)

    watching = plain.with_stages({name: watched(name) for name in seen})
    for seed, clip in enumerate(clips):
        same_noise([watching], *_known(clip), seed=seed)
    return seen


def _known(clip: Mapping[str, Tensor]) -> list[Tensor]:
    return [clip[key][None] for key in KEYS]


def quantise(path: Path, given: Sequence[tuple], names: Sequence[str]) -> None:
    """Make a stage's file one of 8-bit integers.

    Args:
        path: of a file that `onnx.write` has written.
        given: rows of the stage's arguments, from which come the ranges of what flows.
        names: of the arguments.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, takes) -> None:
            self.feeds: Iterator[dict] = (
                {name: x.numpy() for name, x in zip(names, row) if name in takes} for row in given
            )

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    with TemporaryDirectory(dir=path.parent) as folder, _quiet():
        prepared = Path(folder) / path.name
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(path), Reader(onnx.Session(path, names).takes),
            op_types_to_quantize=list(OPERATORS), per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            # weights of 7 bits: without VNNI a CPU adds pairs of products in 16 bits, which hold
            # 2 · 255 · 64, but not 2 · 255 · 127
            weight_type=quantization.QuantType.QInt8, reduce_range=True,
        )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to its own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

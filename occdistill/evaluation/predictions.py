"""Anybody's forecasts as files: a small npz schema, and numbered outputs of other code bases.

Our own layout, one file per clip, named after its newest past keyframe:

    DIR/predictions.json            optional manifest, see `Manifest`
    DIR/<scene>/<token>.npz         semantics: uint8 (F, X, Y, Z), or (S, F, X, Y, Z) for S samples;
                                    Occ3D ids 0..17, frame i in the ego frame of +(i+1)/2 s

Numbered layout, what a test loop of OccWorld, DOME or COME has at hand for loader index i:

    DIR/<i>.npz or <i>.npy          pred: (F, X, Y, Z) or (1, F, ...); more frames: the last F count
                                    input (optional): the past the model saw, used to prove that
                                    the numbering is ours

Numbers count the windows of one protocol, scene by scene. Neither needs this project's model code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from torch import Tensor

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import CLASS_NAMES, FREE
from occdistill.errors import UserError
from occdistill.evaluation.counts import Window, slug
from occdistill.evaluation.measures.base import Observer
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.store import (
    ARRAY_BYTES,
    declared,
    declared_in,
    read_json,
    reading,
    write_json,
    write_npz,
)
from occdistill.untrusted import inside, open_file

KEYS = ("semantics", "pred", "prediction", "pred_occs", "output_occs", "arr_0")
MANIFEST = "predictions.json"
_NUMBER = re.compile(r"(?:\D*)(\d+)\.np[yz]")


@dataclass
class Manifest:
    """What a folder of predictions says about itself; every entry is optional.

    Attributes:
        model: name for the table.
        nfe: network evaluations per forecast.
        guidance: guidance scale.
        conditioning: `none`, `hist+1`, `pred` or `gt`.
        classes: names of ids 0..17; another order than Occ3D's is refused.
        crop: half extent kept of the Occ3D grid in x and y, metres.
        coarsen: voxels merged along each axis.
        checkpoint: fingerprint of the weights.
        dtype: of the inference.
        seed: of the noise.
    """

    model: str | None = None
    nfe: int | None = None
    guidance: float | None = None
    conditioning: str = "not stated"
    classes: tuple[str, ...] = CLASS_NAMES
    crop: float | None = None
    coarsen: int = 1
    checkpoint: str | None = None
    dtype: str | None = None
    seed: int | None = None

    def save(self, folder: str | Path) -> None:
        """Write the manifest into a folder of predictions."""
        write_json(Path(folder) / MANIFEST, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read the manifest of a folder, or the default one where there is none.

        Raises:
            UserError: unknown entries, or a class order that isn't Occ3D's.
        """
        path = Path(folder) / MANIFEST
        if not path.exists():
            return cls(model=Path(folder).name)
        content = read_json(path, "manifest", "rewrite or delete it", dict)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise UserError(f"{path} has an unknown entry {unknown[0]!r}; known: {sorted(known)}")
        manifest = cls(**content)
        for i, name in enumerate(CLASS_NAMES):
            theirs = manifest.classes[i] if i < len(manifest.classes) else "nothing"
            if theirs != name:
                raise UserError(
                    f"{path} says that id {i} is {theirs!r}, but Occ3D's id {i} is {name!r}; "
                    "reorder the ids before saving (free is 17)"
                )
        return manifest


def save_prediction(folder: str | Path, clip_id: str, voxels: np.ndarray) -> Path:
    """Write one clip's forecast, uint8 `([S,] F, X, Y, Z)`, where `find_predictions` looks."""
    path = inside(folder, f"{clip_id}.npz", "the data set")
    write_npz(path, {"semantics": np.asarray(voxels, np.uint8)})
    return path


def save_predictions(folder: Path, dataset: ClipDataset, rows: Sequence[Row], **grid) -> Observer:
    """Writes every row's forecasts to `folder/<row>`, as `tools/score.py` reads them.

    Args:
        folder: where to.
        dataset: names the clips.
        rows: described in the folders' manifests.
        **grid: `crop` and `coarsen` of the voxels.
    """
    for row in rows:
        facts = {k: row.facts.get(k) for k in ("checkpoint", "dtype")}
        manifest = Manifest(row.model, row.nfe, row.guidance, row.conditioning, **facts, **grid)
        manifest.save(folder / slug(row.name))

    def feed(state: None, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        for i, voxels in zip(batch.index.tolist(), pred.cpu().numpy()):
            save_prediction(folder / slug(row.name), dataset.clip_id(i), voxels)

    return Observer("predictions", lambda: None, feed)


def find_predictions(
    folder: str | Path,
    windows: Sequence[Window],
    protocols: Sequence[Protocol],
    allow_missing: bool = False,
) -> dict[int, Path]:
    """Which file belongs to which window.

    Args:
        folder: predictions in either layout.
        windows: all windows of the data set, scene by scene.
        protocols: what is to be scored; numbered files count the windows of the first.
        allow_missing: leave windows without their file out; the scores say how many there are.

    Returns:
        Index into `windows` to file, for the windows that any protocol uses.

    Raises:
        UserError: nothing there, or a window without its file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of predictions at {folder}")
    numbered = {
        int(m[1]): path for path in sorted(folder.iterdir()) if (m := _NUMBER.fullmatch(path.name))
    }
    result: dict[int, Path] = {}
    for protocol in protocols:
        chosen = [i for i, w in enumerate(windows) if w.newest in protocol.windows(w.length)]
        if not numbered:
            files = {i: inside(folder, f"{windows[i].id}.npz", "the data set") for i in chosen}
        elif protocol is protocols[0]:
            files = {i: numbered.get(n, folder / f"{n}.npz") for n, i in enumerate(chosen)}
        else:
            files = {i: result.get(i, folder / "(not numbered)") for i in chosen}
        missing = [i for i, path in files.items() if not path.exists()]
        if missing and allow_missing and len(missing) < len(chosen):
            files = {i: path for i, path in files.items() if path.exists()}
        elif missing:
            raise UserError(
                f"{len(missing)} of the {len(chosen)} windows of protocol {protocol.name!r} have "
                f"no prediction; the first is {windows[missing[0]].id}, expected at "
                f"{files[missing[0]]}; --allow-missing scores those that are there"
            )
        result.update(files)
    if not result:
        raise UserError(f"this data set has no window of protocol {protocols[0].name!r}")
    return result


def read_prediction(path: str | Path, frames: int, shape: Sequence[int]) -> np.ndarray:
    """One clip's forecast, checked.

    Args:
        path: npz or npy file.
        frames: future frames F expected; of more, the last F are taken (the first are the past).
        shape: grid `(X, Y, Z)` expected.

    Returns:
        uint8 `(S, F, X, Y, Z)`.

    Raises:
        UserError: naming the file, what it holds and what was expected.
    """
    path, shape = Path(path), tuple(shape)
    expected = f"expected {KEYS[0]!r}, integers (F={frames}, {', '.join(map(str, shape))})"
    with reading(path, "prediction", expected), open_file(path) as file:
        if file.read(2) == b"PK":
            content = np.lib.npyio.NpzFile(file, allow_pickle=False)
            key = next((k for k in KEYS if k in content.files), None)
            if key is None:
                raise UserError(f"{path} holds {content.files}, {expected}")
            _small(path, declared_in(content, key)[2])
            voxels = content[key]
        else:
            file.seek(0)
            _small(path, declared(file, path.stat().st_size)[2])
            file.seek(0)
            voxels = np.lib.format.read_array(file, allow_pickle=False)
    if voxels.dtype.kind not in "iu":
        raise UserError(
            f"{path} holds {voxels.dtype} values, {expected}; save class ids, not logits"
        )
    if voxels.ndim not in (4, 5) or voxels.shape[-3:] != shape or voxels.shape[-4] < frames:
        raise UserError(f"{path} holds an array {voxels.shape}, {expected}")
    voxels = voxels.reshape(-1, *voxels.shape[-4:])[:, -frames:]
    if voxels.size and (voxels.min() < 0 or voxels.max() > FREE):
        raise UserError(
            f"{path} holds class id {voxels.max()}; expected Occ3D ids 0..{FREE} (free = {FREE})"
        )
    voxels = np.ascontiguousarray(voxels, np.uint8)
    shares = np.bincount(voxels.ravel()[::7], minlength=FREE + 1) / (voxels.size / 7)
    common = int(shares.argmax())
    if common != FREE and shares[common] > 0.6:
        raise UserError(
            f"{100 * shares[common]:.0f} % of the voxels of {path} have id {common} "
            f"({CLASS_NAMES[common]}), where a street is mostly free; expected Occ3D's class order "
            f"with free = {FREE}"
        )
    return voxels


def _small(path: Path, size: int) -> None:
    if size > ARRAY_BYTES:
        raise UserError(f"{path} would unpack to {size / 1e9:.1f} GB; expected one clip's forecast")


def check_input(path: Path, newest: np.ndarray) -> None:
    """If the file keeps what the model saw, its last past frame must be the window's newest one.

    Raises:
        UserError: if it isn't: the numbering counts other windows.
    """
    if path.suffix != ".npz":
        return
    advice = "save it again"
    with (
        reading(path, "prediction", advice),
        open_file(path) as file,
        np.lib.npyio.NpzFile(file, allow_pickle=False) as content,
    ):
        if "input" not in content.files:
            return
        _small(path, declared_in(content, "input")[2])
        past = content["input"].reshape(-1, *newest.shape)
    if not any(np.array_equal(frame, newest) for frame in past):
        raise UserError(
            f"the input kept in {path} isn't this window's past; expected files numbered in the "
            "order of the protocol's windows, scene by scene as the data set lists them"
        )

"""Checkpoints that survive a full disk and a kill, and never run code when read.

A checkpoint is a dict of tensors and plain Python values:

    kind          "vae", "light", "teacher", "plan" or "distill"
    model         state dict of the network that is used later (the student, for "distill")
    ema           its averaged weights, if any (files without `training` have them as `model`)
    config_text   the config it was made with
    fingerprints  {"vae": ..., "data": ...} of what it was trained on
    meta          step, updates, metrics, seed, versions
    training      nets, optimisers, scalers and counters: only in files that can be resumed
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from occdistill.errors import UserError, out_of_memory
from occdistill.store import atomic
from occdistill.untrusted import open_file

STEP_FILE = re.compile(r"iter_(\d+)\.pth")
_RESUME = "free some space or choose another --work-dir, then continue with --resume"


def save(path: str | Path, checkpoint: Mapping) -> None:
    """Write a checkpoint so that `path` always holds a whole one, the old or the new.

    Raises:
        UserError: if the disk is full or not writable; the previous file is untouched.
    """
    with atomic(path, "checkpoint", _RESUME) as part, open(part, "wb") as file:
        try:
            torch.save(_plain(dict(checkpoint)), file)
        except RuntimeError as error:  # torch's zip writer turns a full disk into one
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(_first_line(error)) from error


def _plain(value: Any) -> Any:
    """With Python's numbers for numpy's scalars, which are refused when a file is read."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if type(value) is list else value


def load(path: str | Path, kind: str | None = None) -> dict:
    """Read a checkpoint onto the CPU without unpickling anything but tensors and plain values.

    Each part of the file has its CRC-32 beside it, and weights must be finite: what passes is what
    was saved. Prefixes that `torch.compile` and data parallelism put before names are dropped.

    Args:
        path: the file.
        kind: if given, what the checkpoint must be.

    Raises:
        UserError: if the file is missing, damaged, not a checkpoint of this project, of another
            kind, or holds weights that aren't finite.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            _check_parts(file, size)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"checkpoint {path} does not exist: check the path, or train it first"
        ) from error
    except OSError as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({error.strerror or error}): check what it is and "
            "who may read it"
        ) from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found[1].rstrip(".") if found else "something else"
        raise UserError(
            f"checkpoint {path} holds more than tensors and plain values ({what}), so it is not "
            "loaded: use a checkpoint made by this project's tools"
        ) from error
    except Exception as error:  # damaged files raise many kinds
        if out_of_memory(error):
            raise UserError(f"checkpoint {path} needs more memory than there is") from error
        raise UserError(
            f"checkpoint {path} is truncated or damaged ({_first_line(error)}): use an earlier one, "
            "or copy it here again"
        ) from error
    if not isinstance(checkpoint, dict) or not {"kind", "model"} <= checkpoint.keys():
        raise UserError(
            f"{path} is not an occdistill checkpoint (no 'kind' and 'model'): "
            "use one made by tools/train_*.py"
        )
    if problem := _malformed(checkpoint, size):
        raise UserError(
            f"{path} is not an occdistill checkpoint ({problem}): use one made by tools/train_*.py"
        )
    if kind is not None and checkpoint["kind"] != kind:
        raise another_kind(path, checkpoint, kind)
    for part in {"model", "ema"} & checkpoint.keys():
        state = checkpoint[part] = bare(checkpoint[part] or {})
        for key, value in state.items():
            if not torch.isfinite(value).all():
                raise UserError(
                    f"checkpoint {path} holds weights that aren't finite ({key}): the training that "
                    "made it diverged; use an earlier one"
                )
    checkpoint["fingerprints"] = checkpoint.get("fingerprints") or {}  # imported weights have none
    return checkpoint


def another_kind(path: str | Path, checkpoint: Mapping, wanted: str) -> UserError:
    """What is wrong with a checkpoint that isn't of the kind that is wanted."""
    return UserError(
        f"checkpoint {path} holds a {checkpoint['kind']}, not a {wanted}: give the {wanted}'s file"
    )


def _check_parts(file: BinaryIO, size: int) -> None:
    """Compare every part of torch's zip with its CRC-32, which torch itself doesn't do.

    Raises:
        ValueError: a part is damaged, or they declare more bytes than the file has.
        zipfile.BadZipFile: it is no zip.
    """
    with zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > size:
            raise ValueError("it declares more bytes than it has")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} has changed since it was written")


def _malformed(content: Mapping, size: int) -> str | None:
    """What a checkpoint's fields hold instead of what they should, or None.

    Args:
        content: as it was read.
        size: of its file, bytes; a tensor may stand for no more.
    """
    if not isinstance(content["kind"], str):
        return "its 'kind' is no text"
    for name in ("model", "ema"):
        state = content.get(name)
        if name == "ema" and state is None:
            continue
        if not isinstance(state, dict) or not state:
            return f"its {name!r} is no dict of tensors"
        for key, value in state.items():
            if not isinstance(key, str) or not _is_plain(value):
                return f"{key!r:.80} in its {name!r} is no tensor"
            if value.numel() * value.element_size() > size:
                return f"{key!r:.80} in its {name!r} declares more numbers than the file has"
    for name in ("fingerprints", "meta", "training"):
        if not isinstance(content.get(name), dict | None):
            return f"its {name!r} is no dict"
    for key, value in (content.get("fingerprints") or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            return f"{key!r:.80} in its 'fingerprints' is no text"
    return None


def _is_plain(value: Any) -> bool:
    """A tensor of numbers that are there: neither sparse nor quantised nor on no device."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the `_orig_mod.` of compiled networks and the `module.` of parallel ones."""
    names = {key: key.replace("_orig_mod.", "") for key in state}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {key: name.removeprefix("module.") for key, name in names.items()}
    return {names[key]: value for key, value in state.items()}


def newest(folder: str | Path, kind: str) -> tuple[Path, dict] | None:
    """The newest resumable checkpoint of a work directory that is whole, and its content.

    Steps that only a damaged one had are done again: the same ones, as a run is a function of its
    seed.

    Raises:
        UserError: there are some, and none can be read.
    """
    failed = None
    for path in reversed(step_files(folder)):
        try:
            content = load(path, kind)
        except UserError as error:
            failed = failed or error
            continue
        if failed:
            print(f"{failed}; going on from {path.name}", file=sys.stderr)
        return path, content
    if failed:
        raise failed
    return None


def export(path: str | Path, out: str | Path) -> int:
    """Write a checkpoint's weights as safetensors, for code that isn't this project's.

    Args:
        path: the checkpoint.
        out: the file to write; its metadata has `kind`, `config_text`, `fingerprints` and `meta`,
            the last two as JSON.

    Returns:
        How many tensors there are.

    Raises:
        UserError: no such checkpoint, or safetensors isn't installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise UserError("safetensors isn't installed: pip install safetensors") from error
    state = load(path)
    tensors = {key: value.contiguous().clone() for key, value in weights(state).items()}
    about = {name: json.dumps(state.get(name) or {}) for name in ("fingerprints", "meta")}
    about |= {name: state.get(name) or "" for name in ("kind", "config_text")}
    with atomic(out, "weights") as part:
        save_file(tensors, part, metadata=about)
    return len(tensors)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def weights(checkpoint: Mapping) -> dict[str, Tensor]:
    """The state dict to use: the averaged weights where there are any."""
    return checkpoint.get("ema") or checkpoint["model"]


def _sort(value: Tensor) -> tuple[bool, bool]:
    """Whole, real or complex; how many bits is free."""
    return value.is_floating_point(), value.is_complex()


def check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Compare a state dict's keys, shapes and kinds of number with those it is meant for.

    Args:
        own: the state dict of the network at hand.
        state: the one to be loaded.
        source: where it comes from and what it is for, to begin the error with.

    Raises:
        UserError: naming the first differences.
    """
    differences = [f"no {key}" for key in own if key not in state]
    differences += [f"unexpected {key}" for key in state if key not in own]
    differences += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    differences += [
        f"{key} is {state[key].dtype}, not {value.dtype}"
        for key, value in own.items()
        if key in state and _sort(state[key]) != _sort(value)
    ]
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{source} holds another architecture than this config's ({shown}{more}): "
            "use the config it was trained with"
        )


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into `module`, which must have exactly its keys and shapes.

    Raises:
        UserError: naming the first differences; `module` is left as it was.
    """
    check_fits(module.state_dict(), state, f"{source} for {type(module).__name__}")
    module.load_state_dict(state)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """12 hex characters that change with any name, shape, dtype or bit of a state dict.

    What a checkpoint stores in float16 is hashed as the float32 it is loaded as.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = torch.as_tensor(state[key]).detach().cpu().contiguous()
        value = value.float() if value.dtype == torch.float16 else value
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def step_files(folder: str | Path) -> list[Path]:
    """Resumable checkpoints of a work directory, oldest first."""
    found = [(m, p) for p in Path(folder).glob("iter_*.pth") if (m := STEP_FILE.fullmatch(p.name))]
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1]))]

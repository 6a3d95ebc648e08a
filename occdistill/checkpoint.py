"""Checkpoints that survive a full disk and a kill, and never run code when read.

A checkpoint is a dict of tensors and plain Python values:

    kind          "vae", "light", "teacher" or "distill"
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
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from occdistill.errors import UserError
from occdistill.store import atomic

STEP_FILE = re.compile(r"iter_(\d+)\.pth")
_RESUME = "free some space or choose another --work-dir, then continue with --resume"


def save(path: str | Path, checkpoint: Mapping) -> None:
    """Write a checkpoint so that `path` always holds a whole one, the old or the new.

    Raises:
        UserError: if the disk is full or not writable; the previous file is untouched.
    """
    with atomic(path, "checkpoint", _RESUME) as part, open(part, "wb") as file:
        try:
            torch.save(dict(checkpoint), file)
        except RuntimeError as error:  # torch's zip writer turns a full disk into one
            raise OSError(_first_line(error)) from error


def load(path: str | Path, kind: str | None = None) -> dict:
    """Read a checkpoint onto the CPU without unpickling anything but tensors and plain values.

    Args:
        path: the file.
        kind: if given, what the checkpoint must be.

    Raises:
        UserError: if the file is missing, damaged, not a checkpoint of this project, or of
            another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist: check the path, or train it first")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {path} is truncated or damaged ({_first_line(error)}): use an earlier one"
        ) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(
            f"checkpoint {path} is damaged or holds more than tensors and plain values, so it is "
            "not loaded: use a checkpoint made by this project's tools"
        ) from error
    if not isinstance(checkpoint, dict) or not {"kind", "model"} <= checkpoint.keys():
        raise UserError(
            f"{path} is not an occdistill checkpoint (no 'kind' and 'model'): "
            "use one made by tools/train_*.py"
        )
    if kind is not None and checkpoint["kind"] != kind:
        raise UserError(
            f"checkpoint {path} holds a {checkpoint['kind']}, not a {kind}: give the {kind}'s file"
        )
    checkpoint["fingerprints"] = checkpoint.get("fingerprints") or {}  # imported weights have none
    return checkpoint


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


def check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Compare a state dict's keys and shapes with those it is meant for.

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

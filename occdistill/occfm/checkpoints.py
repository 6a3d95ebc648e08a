"""OccFM's published checkpoints: what is in a file, whether it fits, and its weights as ours.

A file is a dict of `state_dict` (keys prefixed `module.`), `ema_model` (the same, averaged, with
`n_averaged`, or None), and what training needed: optimiser, scheduler, scaler, epoch. A world
model's file holds a copy of the autoencoder too. OccFM evaluates world models with the averaged
weights, autoencoder included, and the autoencoder's own file with the plain ones.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from occdistill.autoencoder.occfm import OccFMVAE, averaged_relative_index, relative_index
from occdistill.errors import UserError
from occdistill.flow.networks.occfm import OccFMTransition, position_table
from occdistill.occfm.mapping import from_published, layout
from occdistill.occfm.pickles import refuse_lookalikes

Weights = Literal["auto", "plain", "ema"]


@dataclass(frozen=True)
class Variant:
    """Which of the published models a set of tensors is.

    Attributes:
        channels: latent channels.
        trajectory_length: entries of the trajectory; None in a file of the autoencoder alone.
        frames: frames of the 3-D autoencoder, else None.
    """

    channels: int
    trajectory_length: int | None = None
    frames: int | None = None

    @property
    def name(self) -> str:
        """`occfm`, `occfm_fut`, `occfm_4c` …; `vae`, `vae_4c` …, `vae3d`."""
        width = "" if self.channels == 16 else f"_{self.channels}c"
        if self.trajectory_length is None:
            return f"{'vae3d' if self.frames else 'vae'}{width}"
        length = self.trajectory_length
        return f"occfm{width}" + {6: "", 12: "_fut"}.get(length, f"_trajectory{length}")

    def networks(self) -> tuple[OccFMVAE, OccFMTransition | None]:
        """Fresh networks of this variant; no transition network for the autoencoder's file."""
        vae = OccFMVAE(channels=self.channels, frames=self.frames)
        if self.trajectory_length is None:
            return vae, None
        shape = (self.channels, 50, 50)
        return vae, OccFMTransition(shape, trajectory_length=self.trajectory_length)

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Variant:
        """Read the variant off the shapes.

        Raises:
            KeyError: if a tensor that tells is missing.
        """
        length = tensors.get("transition_model.traj_encoder.0.weight")
        world = any(key.startswith("transition_model.") for key in tensors)
        return Variant(
            channels=tensors["decoder.conv_in.weight"].shape[1],
            trajectory_length=None if not world else 6 if length is None else length.shape[1] // 32,
            frames=6 if any(".temporal_block." in key for key in tensors) else None,
        )


@dataclass
class PublishedFile:
    """A published file, read and checked.

    Attributes:
        path: where it was.
        size: in bytes.
        sha256: of the file, hex.
        holds: its top-level entries.
        epoch: after which it was saved, if it says so.
        averaged: updates in the moving average, if there is one.
        weights: which set was taken, `plain` or `ema`.
        tensors: that set, without prefixes.
        variant: which model it is.
        quirks: what was found in the stored tables, one sentence each.
    """

    path: Path
    size: int
    sha256: str
    holds: list[str]
    epoch: int | None
    averaged: int | None
    weights: str
    tensors: dict[str, Tensor]
    variant: Variant
    quirks: list[str] = field(default_factory=list)

    def provenance(self) -> dict[str, Any]:
        """What is kept in our checkpoints about where their weights come from."""
        return {
            "source": self.path.name,
            "sha256": self.sha256,
            "bytes": self.size,
            "epoch": self.epoch,
            "variant": self.variant.name,
            "weights": self.weights,
            "averaged_updates": self.averaged,
            "quirks": list(self.quirks),
        }

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """A complete state dict for one of our networks, its tensors its own."""
        state = from_published(network, self.tensors)
        return {key: value.detach().clone() for key, value in state.items()}


def read(path: str | Path, weights: Weights = "auto") -> PublishedFile:
    """Read a published checkpoint with nothing but tensors and plain values allowed in it.

    Args:
        path: the file.
        weights: `plain`, `ema`, or `auto` for what OccFM evaluates: the averaged weights of a world
            model, the plain ones of an autoencoder.

    Raises:
        UserError: if the file is missing, cut off, no checkpoint of OccFM, of another layout, or
            without the weights asked for.
    """
    path = Path(path)
    content = _load(path)
    holds = sorted(map(str, content))
    if "state_dict" not in content and all(isinstance(v, Tensor) for v in content.values()):
        content = {"state_dict": content}  # weights that somebody saved alone
    sets = {
        "plain": _tensors(content.get("state_dict")),
        "ema": _tensors(content.get("ema_model")),
    }
    some = sets["plain"] or sets["ema"]
    if some is None:
        raise UserError(
            f"{path} holds {', '.join(holds[:6]) or 'nothing'} and no state_dict: "
            "give a checkpoint published by OccFM's authors"
        )
    world = any(key.startswith("transition_model.") for key in some)
    taken = ("ema" if world else "plain") if weights == "auto" else weights
    tensors = sets[taken]
    if tensors is None:
        other = "plain" if taken == "ema" else "ema"
        missing = "averaged weights (ema_model)" if taken == "ema" else "plain weights (state_dict)"
        raise UserError(f"{path} has no {missing}: take the others with --weights {other}")
    averaged = tensors.pop("n_averaged", None)
    variant = _check(path, tensors)
    epoch = content.get("epoch")
    return PublishedFile(
        path=path,
        size=path.stat().st_size,
        sha256=_sha256(path),
        holds=holds,
        epoch=epoch if isinstance(epoch, int) else None,
        averaged=None if averaged is None else int(averaged),
        weights=taken,
        tensors=tensors,
        variant=variant,
        quirks=find_quirks(tensors),
    )


def _load(path: Path) -> dict:
    """The file's dictionary."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: check the path, or download it first")
    with open(path, "rb") as file:
        refuse_lookalikes(path, file.read(64))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint of tensors and plain values ({_reason(error)}): it may be "
            "hostile and is not read; use a file from OccFM's authors"
        ) from error
    except Exception as error:  # cut-off archives fail in many ways
        raise UserError(
            f"{path} is cut off or damaged ({_reason(error)}): download it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a checkpoint: "
            "give a file published by OccFM's authors"
        )
    return content


def _reason(error: Exception) -> str:
    """What a forbidden global was called, or the first line of an error."""
    text = str(error)
    asked = re.search(r"GLOBAL ([\w.]+)", text)
    if asked:
        return f"it asks for {asked[1]}"
    return (text or type(error).__name__).splitlines()[0][:120]


def _tensors(entry: Any) -> dict[str, Tensor] | None:
    """A set of weights without the wrapper's prefix; None if there is none."""
    if not isinstance(entry, Mapping) or not entry:
        return None
    if not all(isinstance(value, Tensor) for value in entry.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in entry.items()}


def _check(path: Path, tensors: dict[str, Tensor]) -> Variant:
    """The variant, after comparing every key, shape and dtype with what it must have."""
    try:
        variant = Variant.of(tensors)
        wanted = layout(*filter(None, variant.networks()))
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} holds {len(tensors)} tensors that are not OccFM's (no {error}): "
            "give a checkpoint published by OccFM's authors"
        ) from error
    wrong = [f"no {key}" for key in wanted if key not in tensors]
    wrong += [f"unexpected {key}" for key in tensors if key not in wanted]
    for key, (shape, dtype) in wanted.items():
        value = tensors.get(key)
        if value is None:
            continue
        if tuple(value.shape) != shape:
            wrong.append(f"{key} is {tuple(value.shape)}, not {shape}")
        elif value.dtype != dtype and not (value.is_floating_point() and dtype.is_floating_point):
            wrong.append(f"{key} is {value.dtype}, not {dtype}")
        elif value.is_floating_point() and not bool(value.isfinite().all()):
            wrong.append(f"{key} holds infinities or NaN")
        else:
            tensors[key] = value.to(dtype)
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{path} looks like {variant.name} but does not fit it ({'; '.join(wrong[:3])}{more}): "
            "download it again, or give a checkpoint published by OccFM's authors"
        )
    return variant


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_quirks(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is unusual in the stored tables of a published set of weights, a sentence each."""
    found = []
    indices = [v for k, v in tensors.items() if k.endswith("relative_position_index")]
    altered = [i for i in indices if not torch.equal(i, relative_index())]
    usual = sum(torch.equal(i, averaged_relative_index()) for i in altered)
    if altered:
        found.append(
            f"relative-position index altered in {len(altered)} of {len(indices)} Swin blocks"
            + (
                f", in {usual} of them as averaging integers does (12 of 81 offsets one too small)"
                if usual
                else ", not in the way that averaging integers does"
            )
        )
    table = tensors.get("transition_model.pos_embed")
    if table is not None:
        side = math.isqrt(table.shape[1])
        for columns in (side + 1, side):
            own = position_table(side, side, table.shape[2], columns)[None]
            if torch.allclose(table, own, atol=1e-5):
                found.append(f"position table laid out on {columns} columns for a map of {side}")
                break
        else:
            found.append("position table unlike any that was expected")
    return found

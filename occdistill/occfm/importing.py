"""From what OccFM's authors publish to files that this project reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from occdistill import checkpoint as checkpoints
from occdistill.data.infos import build_infos
from occdistill.data.scenes import load_index
from occdistill.errors import UserError
from occdistill.occfm.caches import compare_infos, infos_columns, read_infos, read_latents
from occdistill.occfm.checkpoints import PublishedFile
from occdistill.store import write_npz


def describe(published: PublishedFile) -> str:
    """What was found in a checkpoint, a line each."""
    variant, count = published.variant, sum(v.numel() for v in published.tensors.values())
    epoch = "" if published.epoch is None else f", epoch {published.epoch}"
    updates = "" if published.averaged is None else f", averaged over {published.averaged} updates"
    lines = [
        f"file      {published.path} ({published.size / 1e6:.0f} MB, {published.sha256[:12]})",
        f"holds     {', '.join(published.holds[:8])}{epoch}",
        f"model     {variant.name}: {len(published.tensors)} tensors, {count / 1e6:.1f} M numbers",
        f"weights   {published.weights}{updates}",
    ]
    quirks = published.quirks or ["none found in the stored tables"]
    return "\n".join(lines + [f"quirk     {quirk}" for quirk in quirks])


def import_weights(
    published: PublishedFile,
    out: Path,
    relative_index: Literal["keep", "intended"] = "keep",
    force: bool = False,
) -> list[Path]:
    """Write a checkpoint as ours, all of it or nothing.

    Args:
        published: of `occfm.checkpoints.read`.
        out: folder for `vae.pth` and, of a world model, `teacher.pth`.
        relative_index: `keep` the file's own table of the Swin blocks (what OccFM was evaluated
            with), or put the `intended` one in its place.
        force: replace weights that are there.

    Returns:
        What was written.

    Raises:
        UserError: there are weights already, or they can't be written.
    """
    vae, transition = published.variant.networks()
    vae.load_state_dict(published.state(vae))
    if relative_index == "intended":
        vae.set_relative_index("intended")
    meta = {**published.provenance(), "relative_index": relative_index}
    files = {out / "vae.pth": _entry("vae", vae, {}, meta)}
    if transition is not None:
        transition.load_state_dict(published.state(transition))
        mark = {"vae": checkpoints.fingerprint(vae.state_dict())}
        files[out / "teacher.pth"] = _entry("teacher", transition, mark, meta)
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise UserError(f"{' and '.join(there)} exist already: choose another --out, or --force")
    written: list[Path] = []
    try:
        for path, content in files.items():
            checkpoints.save(path, content)
            written.append(path)
    except UserError:
        for path in written:
            path.unlink()
        raise
    return written


def _entry(kind: str, network: nn.Module, fingerprints: dict, meta: dict) -> dict:
    """One of our checkpoints, see `occdistill.checkpoint`."""
    return {
        "kind": kind,
        "model": network.state_dict(),
        "config_text": f"# imported from {meta['source']}, variant {meta['variant']}",
        "fingerprints": fingerprints,
        "meta": meta,
    }


def import_latents(file: Path, out: Path) -> str:
    """Turn a latent cache into an npz; returns what it holds, in words."""
    columns = read_latents(file)
    write_npz(out, columns, compress=False)
    scenes = len(set(columns["scene"].tolist()))
    shape = "×".join(map(str, columns["latents"].shape[1:]))
    return f"{len(columns['token'])} keyframes of {scenes} scenes, latents {shape}"


def import_infos(
    file: Path,
    out: Path,
    dataroot: Path | None = None,
    version: str = "v1.0-trainval",
    split: str = "val",
) -> str:
    """Turn an info file into an npz; returns what it holds, in words.

    Args:
        file: see `read_infos`.
        out: the npz, a row per keyframe.
        dataroot: compare with what the raw tables there say; None: don't.
        version: of the tables.
        split: of their scenes.
    """
    infos = read_infos(file)
    count = sum(len(frames) for frames in infos.values())
    words = f"{count} keyframes of {len(infos)} scenes"
    if dataroot is not None:
        found = compare_infos(infos, build_infos(load_index(dataroot, version, split)))
        words += (
            f"; against {dataroot}: {found['keyframes']} keyframes in both, {found['missing']} "
            f"missing from the file, steps differ by at most {found['largest']:.2g} m"
        )
    write_npz(out, infos_columns(infos), compress=False)
    return words

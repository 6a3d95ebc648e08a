"""Import what OccFM's authors publish: checkpoints, cached latents, info files.

    python tools/import_occfm.py weights FILE.ckpt [--weights ema|plain] [--out DIR]
    python tools/import_occfm.py latents FILE.pkl --out FILE.npz
    python tools/import_occfm.py infos FILE.pkl --out FILE.npz [--dataroot data/nuscenes --split val]

Nothing in a file is run: checkpoints may hold tensors and plain values, pickles arrays and plain
containers. Anything else is refused, and nothing is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from occdistill import checkpoint as checkpoints
from occdistill.data.infos import build_infos
from occdistill.data.scenes import load_index
from occdistill.errors import UserError, run
from occdistill.occfm.caches import (
    compare_infos,
    infos_columns,
    read_infos,
    read_latents,
)
from occdistill.occfm.checkpoints import Published, read
from occdistill.store import write_npz


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    add = what.add_parser("weights", help="a checkpoint of OccFM's").add_argument
    add("file", type=Path)
    add("--out", type=Path, help="folder; default: data/occfm/<variant>")
    add("--weights", choices=("auto", "plain", "ema"), default="auto")
    add("--variant", help="refuse any other, such as occfm_fut, occfm, occfm_4c, vae, vae3d")
    add(
        "--relative-index",
        choices=("keep", "intended"),
        default="keep",
        help="keep the file's own table of the Swin blocks (what OccFM was evaluated with), or "
        "put the intended one in its place",
    )
    add("--report", action="store_true", help="say what the file holds and write nothing")
    add("--force", action="store_true", help="replace weights that are there")
    add = what.add_parser("latents", help="a pickle of cached latents").add_argument
    add("file", type=Path)
    add("--out", type=Path, required=True, help="npz: latents, trajectory, scene, token")
    add = what.add_parser("infos", help="a nuscenes_infos_*_temporal_v3_scene.pkl").add_argument
    add("file", type=Path)
    add("--out", type=Path, required=True, help="npz: one row per keyframe")
    add("--dataroot", type=Path, help="compare with what the raw tables there say")
    add("--version", default="v1.0-trainval")
    add("--split", default="val")
    return parser.parse_args()


def import_weights(args: argparse.Namespace) -> None:
    """Read, check, report and write a checkpoint."""
    published = read(args.file, args.weights)
    variant = published.variant
    if args.variant and args.variant != variant.name:
        raise UserError(
            f"{args.file} holds {variant.name}, not {args.variant}: give that one's file"
        )
    report(published)
    if args.report:
        return
    out = args.out or Path("data/occfm") / variant.name
    vae, transition = variant.networks()
    vae.load_state_dict(published.state(vae))
    if args.relative_index == "intended":
        vae.set_relative_index("intended")
    meta = {**published.provenance(), "relative_index": args.relative_index}
    vae_print = checkpoints.fingerprint(vae.state_dict())
    files = {out / "vae.pth": entry("vae", vae, {}, meta)}
    if transition is not None:
        transition.load_state_dict(published.state(transition))
        files[out / "teacher.pth"] = entry("teacher", transition, {"vae": vae_print}, meta)
    there = [str(path) for path in files if path.exists()]
    if there and not args.force:
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
    for path in files:
        print(f"wrote     {path}")


def entry(kind: str, network: torch.nn.Module, fingerprints: dict, meta: dict) -> dict:
    """One of our checkpoints, see `occdistill.checkpoint`."""
    return {
        "kind": kind,
        "model": network.state_dict(),
        "config_text": f"# imported from {meta['source']}, variant {meta['variant']}",
        "fingerprints": fingerprints,
        "meta": meta,
    }


def report(published: Published) -> None:
    """Say what was found."""
    variant, count = published.variant, sum(v.numel() for v in published.tensors.values())
    epoch = "" if published.epoch is None else f", epoch {published.epoch}"
    updates = "" if published.averaged is None else f", averaged over {published.averaged} updates"
    print(f"file      {published.path} ({published.size / 1e6:.0f} MB, {published.sha256[:12]})")
    print(f"holds     {', '.join(published.holds[:8])}{epoch}")
    print(
        f"model     {variant.name}: {len(published.tensors)} tensors, {count / 1e6:.1f} M numbers"
    )
    print(f"weights   {published.weights}{updates}")
    for quirk in published.quirks or ["none found in the stored tables"]:
        print(f"quirk     {quirk}")


def import_latents(args: argparse.Namespace) -> None:
    """Turn a latent cache into an npz."""
    columns = read_latents(args.file)
    write_npz(args.out, columns, compress=False)
    scenes = len(set(columns["scene"].tolist()))
    shape = "×".join(map(str, columns["latents"].shape[1:]))
    print(
        f"wrote {args.out}: {len(columns['token'])} keyframes of {scenes} scenes, latents {shape}"
    )


def import_infos(args: argparse.Namespace) -> None:
    """Turn an info file into an npz, and compare it with the raw tables if they are there."""
    infos = read_infos(args.file)
    if args.dataroot is not None:
        ours = build_infos(load_index(args.dataroot, args.version, args.split))
        found = compare_infos(infos, ours)
        print(
            f"against {args.dataroot}: {found['keyframes']} keyframes in both, {found['missing']} "
            f"missing from the file, steps differ by at most {found['largest']:.2g} m"
        )
    write_npz(args.out, infos_columns(infos), compress=False)
    count = sum(len(frames) for frames in infos.values())
    print(f"wrote {args.out}: {count} keyframes of {len(infos)} scenes")


def main() -> None:
    """Import one file."""
    args = parse()
    {"weights": import_weights, "latents": import_latents, "infos": import_infos}[args.what](args)


if __name__ == "__main__":
    run(main)

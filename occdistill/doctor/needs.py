"""What one config needs: its data, and the weights that it names."""

from __future__ import annotations

from pathlib import Path

from occdistill.build.builders import load_checkpoint
from occdistill.build.config import advice, load_config
from occdistill.doctor.findings import CLIPS, Finding
from occdistill.errors import UserError

RUN = "train_mfd, train_distill, test, visualize, benchmark, realtime"
# what the weights are for; the parts are named as in a config's `<part>_checkpoint`
BLOCKS = {
    "vae": f"train_teacher, train_light, {RUN}",
    "teacher": RUN,
    "light": "--decoder light, --encoder light",
    "lidar_encoder": "--encoder lidar",
    "light_network": "--network light",
    "start": "train_teacher",
}
OPTIONAL = ("light", "lidar_encoder", "light_network")


def check_config(path: str | Path) -> tuple[list[Finding], Path | None]:
    """Findings about a config file.

    Returns:
        They, and the config's data root where it is there, to be looked into.
    """
    try:
        config = load_config(path)
    except UserError as error:
        remedy = "correct it, or take one of those in configs/"
        return [_say("damaged", str(error), path, "every tool that reads it", remedy)], None
    findings = [_say("ok", "every key and value is known", path)]
    root = Path(config.data.dataroot)
    if not root.is_dir():
        findings.append(_say("missing", "no data set", root, CLIPS, advice(config, "data")))
    for part, blocks in BLOCKS.items():
        place = config.get(f"{part}_checkpoint")
        if place:
            findings.append(_weights(config, part, Path(place), blocks))
    return findings, root if root.is_dir() else None


def _weights(config, part: str, place: Path, blocks: str) -> Finding:
    what = f"weights of {part}"
    if not place.is_file():
        ours = config.get(f"train_{part}")  # this config is there to make them
        level = "note" if ours or part in OPTIONAL else "missing"
        remedy = f"`python tools/train_{part}.py {config.filename}`" if ours else None
        return _say(level, f"no {what}", place, blocks, remedy or advice(config, part))
    try:
        load_checkpoint(config, f"{part}_checkpoint")
    except UserError as error:
        return _say("damaged", str(error), place, blocks, advice(config, part))
    return _say("ok", what, place)


def _say(level, message: str, path: str | Path, blocks: str = "", remedy: str = "") -> Finding:
    return Finding("config", level, message, str(path), blocks, remedy)

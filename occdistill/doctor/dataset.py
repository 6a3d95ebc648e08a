"""A data root: tables, labels, clouds, point labels, side files, caches.

What loading would say is said here, in the same words, by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from occdistill.data.tables import (
    NEEDED,
    blob_folders,
    index_annotations,
    index_tables,
    read_splits,
    version_folders,
)
from occdistill.doctor import files
from occdistill.doctor.findings import CLIPS, LIDAR, Finding
from occdistill.errors import UserError
from occdistill.untrusted import outside

OTHERS = ("attribute", "category", "instance", "log", "map", "sample_annotation", "visibility")
FETCH_TABLES = "fetch the nuScenes metadata again (nuscenes.org, or tools/make_world.py)"
FETCH_LABELS = "fetch Occ3D's gts again (or make the world anew)"
SAMPLE = 24  # files of a kind looked into unless all are asked for
SHOWN = 5  # files of a kind named


class Doctor:
    """Looks at one data root.

    Args:
        root: its folder.
        full: look into every file instead of a sample.
        layout: of the LiDAR clouds, see `voxelize.load_points`.
    """

    def __init__(self, root: Path, full: bool = False, layout: str = "xyzir") -> None:
        self.root, self.full, self.layout = root, full, layout
        self.findings: list[Finding] = []
        self.frames: dict[str, list[dict]] = {}  # scene name to keyframes: token, lidar, lidarseg
        self.own_splits: dict[str, list[str]] = {}

    def __call__(self) -> list[Finding]:
        """Everything there is to say."""
        if not files.CAN_READ:
            message = "poses, labels and clouds aren't looked into: packages are missing"
            self._say("contents", "note", message, remedy="pip install -r requirements.txt")
        folders = version_folders(self.root)
        whole = [f for f in folders if all((f / f"{n}.json").exists() for n in NEEDED)]
        self.annotations(bool(whole))
        for folder in folders:
            # a folder that isn't complete stops nobody who has another list
            self.tables(folder, needed=folder in whole or not self.frames)
        for folder in blob_folders(self.root):
            remedy = f"move what is in {folder} up into {self.root}"
            self._say("blobs", "note", "unpacked into a folder of its own", folder, remedy=remedy)
        if not self.frames:
            self._say("tables", "missing", "no usable list of scenes", blocks=CLIPS)
        self.splits()
        self.labels()
        self.clouds()
        self.side_files()
        return self.findings

    def _say(self, area: str, level, message: str, path: Path | None = None, **more: str) -> None:
        place = None if path is None else str(path)
        self.findings.append(Finding(area, level, message, place, **more))

    def _told(
        self, area: str, sentence: str, path: Path, blocks: str = CLIPS, level="damaged"
    ) -> None:
        """What loading would say: the fault, and behind the last semicolon what to do."""
        message, _, remedy = sentence.rpartition("; ")
        self._say(area, level, message, path, blocks=blocks, remedy=remedy)

    # ------------------------------------------------------------------ tables

    def tables(self, folder: Path, needed: bool = True) -> None:
        """A version's tables: all there, readable, and fitting together."""
        for name in OTHERS:
            if not (path := folder / f"{name}.json").exists():
                message = "no such table (only the devkit wants it)"
                self._say("tables", "note", message, path, remedy=FETCH_TABLES)
        missing = [path for n in NEEDED if not (path := folder / f"{n}.json").is_file()]
        for path in missing:
            level, blocks = ("missing", CLIPS) if needed else ("note", "")
            message = f"no such table, without which {folder.name} can't be used"
            self._say("tables", level, message, path, blocks=blocks, remedy=FETCH_TABLES)
        if not missing:
            self._scenes("tables", folder, index_tables)

    def _scenes(
        self, area: str, source: Path, index: Callable[..., dict], level="damaged"
    ) -> dict[str, list[str]] | None:
        """Scenes and their keyframes, as loading reads and checks them; the splits, if any."""
        faults: list[str] = []
        found: dict = {"scenes": []}
        try:
            found = index(source, faults.append)
        except UserError as error:
            faults.append(str(error))
        for scene in found["scenes"]:
            self.frames[scene["name"]] = scene["frames"]
            looked = scene["frames"] or not faults  # else what is wrong is told
            if files.CAN_READ and looked and (sentence := files.bad_frames(self.root, scene)):
                faults.append(sentence)
        for sentence in faults:
            self._told(area, sentence, source, CLIPS if level == "damaged" else "", level)
        if not faults:
            frames = sum(len(scene["frames"]) for scene in found["scenes"])
            self._say(area, "ok", f"{len(found['scenes'])} scenes, {frames} keyframes", source)
        return found.get("splits")

    def annotations(self, tables: bool) -> None:
        """Occ3D's own list of scenes, enough by itself; where there are tables, they count."""
        path = self.root / "annotations.json"
        level = "note" if tables else "damaged"
        if path.exists():
            splits = self._scenes("annotations", path, lambda p, _: index_annotations(p), level)
            self.own_splits = splits or {}
            return
        level, blocks = ("note", "") if tables else ("missing", CLIPS)
        self._say(
            "annotations", level, "not there (needed only without tables)", path,
            blocks=blocks, remedy="fetch it with Occ3D's gts",
        )  # fmt: skip

    def splits(self) -> None:
        """The data set's own splits, where it has them, or nuScenes' own."""
        path = self.root / "splits.json"
        if not path.exists():
            if files.CAN_READ and not self.own_splits:
                self.own_splits = files.official_splits()
            return
        try:
            self.own_splits = read_splits(path)
        except UserError as error:
            self._told("splits", str(error), path)
            return
        names = [name for names in self.own_splits.values() for name in names]
        lost = [name for name in names if name not in self.frames]
        if lost:
            message = f"names {len(lost)} scenes that aren't there: {lost[0]}"
            self._say("splits", "note", message, path)
        sizes = ", ".join(f"{len(v)} {k}" for k, v in self.own_splits.items())
        self._say("splits", "ok", sizes, path)

    # ------------------------------------------------------------------ files per keyframe

    def labels(self) -> None:
        """Occ3D's `gts/<scene>/<token>/labels.npz`."""
        tested = {name for split, names in self.own_splits.items() if split != "test"
                  for name in names}  # fmt: skip
        names, without = [], []
        for name, frames in self.frames.items():
            if tested and name not in tested and not (self.root / "gts" / str(name)).is_dir():
                without.append(name)
                continue
            names += [f"gts/{name}/{frame['token']}/labels.npz" for frame in frames]
        if without:
            message = f"none for {len(without)} scenes that are in no split but test: {without[0]}"
            self._say("labels", "note", message, self.root / "gts")
        paths = list(self._inside("labels", names, CLIPS).values())
        self._files("labels", paths, files.check_labels, CLIPS, FETCH_LABELS)

    def clouds(self) -> None:
        """Keyframe sweeps and their point labels."""
        frames = [f for scene in self.frames.values() for f in scene]
        named = self._inside("lidar", [f["lidar"] for f in frames if f.get("lidar")], CLIPS)
        clouds = list(named.values())
        remedy = "fetch the nuScenes file blobs again (LIDAR_TOP keyframes)"
        if clouds and not any(p.exists() for p in clouds):
            self._say("lidar", "note", "no sweeps here", clouds[0].parent, remedy=remedy)
        else:
            self._files(
                "lidar", clouds, partial(files.check_cloud, layout=self.layout), LIDAR, remedy
            )
        both = [f for f in frames if f.get("lidarseg") and f.get("lidar")]
        labelled = self._inside("lidarseg", [f["lidarseg"] for f in both], CLIPS)
        pairs = {
            labelled[repr(f["lidarseg"])]: named[repr(f["lidar"])]
            for f in both
            if repr(f["lidarseg"]) in labelled and repr(f["lidar"]) in named
        }

        def check(path: Path) -> str | None:
            return files.check_point_labels(path, pairs[path], self.layout)

        remedy = "fetch nuScenes-lidarseg again"
        if not pairs:
            self._say("lidarseg", "note", "no point labels listed", remedy=remedy)
        else:
            self._files("lidarseg", list(pairs), check, LIDAR, remedy)
        if not (self.root / "sweeps").is_dir():
            self._say("sweeps", "note", "none; nothing here needs them", self.root / "sweeps")

    def _inside(self, area: str, names: list[Any], blocks: str) -> dict[str, Path]:
        """Paths below the data root by `repr` of the name in the tables; other names are told."""
        paths, strange = {}, []
        for name in names:
            if reason := outside(self.root, name):
                strange.append((name, reason))
            else:
                paths[repr(name)] = self.root / name
        for name, reason in strange[:SHOWN]:
            message = f"the tables name {name!r}, which is not in {self.root} ({reason})"
            self._say(area, "damaged", message, self.root, blocks=blocks, remedy=FETCH_TABLES)
        if len(strange) > SHOWN:
            self._say(area, "damaged", f"and {len(strange) - SHOWN} more such names")
        return paths

    def _files(
        self,
        area: str,
        paths: list[Path],
        check: Callable[[Path], str | None],
        blocks: str,
        remedy: str,
    ) -> None:
        """Existence of all, content of all or of an even sample."""
        if not paths:
            return
        missing = [p for p in paths if not p.is_file()]
        for path in missing[:SHOWN]:
            self._say(area, "missing", "no such file", path, blocks=blocks, remedy=remedy)
        there = [p for p in paths if p.is_file()]
        looked = there if self.full else _spread(there, SAMPLE)
        looked = looked if files.CAN_READ else []
        damaged = [(path, problem) for path in looked if (problem := check(path))]
        for path, problem in damaged[:SHOWN]:
            self._told(area, problem, path, blocks)
        for word, found in (("missing", missing), ("damaged", damaged)):
            if len(found) > SHOWN:
                self._say(area, word, f"and {len(found) - SHOWN} more {word} files")
        if not missing and not damaged:
            how = "all looked into" if len(looked) == len(there) else f"{len(looked)} looked into"
            self._say(area, "ok", f"{len(there)} files, {how}")

    # ------------------------------------------------------------------ the rest

    def side_files(self) -> None:
        """Pickles, which nothing here needs, and the index cache."""
        pickles = [*self.root.glob("*.pkl"), *self.root.parent.glob("nuscenes_infos_*.pkl")]
        for path in sorted(set(pickles)):
            problem = files.check_pickle(path)
            message = problem or "not needed, and never loaded: it could run code"
            self._say("pickles", "note", message, path)
        for path in sorted((self.root / ".occdistill").glob("*.json")):
            _, problem = files.parse_json(path)
            if problem:
                remedy = f"delete {path}; it is built again"
                self._say("caches", "damaged", problem, path, remedy=remedy)


def check_caches(folder: Path) -> list[Finding]:
    """Encoded clips and voxel caches below a folder."""
    findings = []
    for meta in sorted(folder.rglob("meta.json")) if files.CAN_READ else ():
        place = str(meta.parent)
        if place.endswith(".part"):
            findings.append(Finding("caches", "note", "an interrupted build", place))
        elif problem := files.check_cache(meta.parent):
            remedy = f"delete {place}; it is built again"
            stopped = "training from this cache"
            findings.append(Finding("caches", "damaged", problem, place, stopped, remedy))
        else:
            findings.append(Finding("caches", "ok", "whole", place))
    return findings


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spread."""
    if len(items) <= count:
        return items
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]

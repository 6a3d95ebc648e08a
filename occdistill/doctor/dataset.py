"""A data root: tables, labels, clouds, point labels, side files, caches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from occdistill.data.chains import follow
from occdistill.doctor.files import (
    check_arrays,
    check_cloud,
    check_labels,
    check_pickle,
    check_point_labels,
    parse_json,
)
from occdistill.doctor.findings import CLIPS, LIDAR, Finding
from occdistill.untrusted import outside

NEEDED = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")
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
    """

    def __init__(self, root: Path, full: bool = False) -> None:
        self.root, self.full = root, full
        self.findings: list[Finding] = []
        self.frames: dict[str, list[dict]] = {}  # scene name to keyframes: token, lidar, lidarseg

    def __call__(self) -> list[Finding]:
        """Everything there is to say."""
        versions = sorted(p for p in self.root.glob("v1.0-*") if p.is_dir())
        for folder in versions:
            self.tables(folder)
        self.annotations(bool(versions))
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

    # ------------------------------------------------------------------ tables

    def tables(self, folder: Path) -> None:
        """A version's tables: all there, readable, and fitting together."""
        tables: dict[str, list[dict]] = {}
        for name in (*NEEDED, *OTHERS):
            path = folder / f"{name}.json"
            blocks = CLIPS if name in NEEDED else ""
            level = "missing" if name in NEEDED else "note"
            if not path.exists():
                message = "no such table" if blocks else "no such table (only the devkit wants it)"
                self._say("tables", level, message, path, blocks=blocks, remedy=FETCH_TABLES)
                continue
            content, problem = parse_json(path) if self._small(path) else _edges(path)
            if problem is None and not (
                isinstance(content, list) and all(isinstance(record, dict) for record in content)
            ):
                problem = "isn't a list of records"
            if problem:
                level = "damaged" if name in NEEDED else "note"
                self._say("tables", level, problem, path, blocks=blocks, remedy=FETCH_TABLES)
            else:
                tables[name] = content
        if all(name in tables for name in NEEDED):
            before = len(self.findings)
            self._references(folder, tables)
            if len(self.findings) == before:
                scenes, frames = len(tables["scene"]), len(tables["sample"])
                self._say("tables", "ok", f"{scenes} scenes, {frames} keyframes", folder)

    def _small(self, path: Path) -> bool:
        return self.full or path.stat().st_size < 200e6

    def _references(self, folder: Path, tables: dict[str, list[dict]]) -> None:
        """Tokens that point nowhere, and scenes as lists of keyframes."""
        known = {name: {r.get("token") for r in rows} for name, rows in tables.items() if rows}
        for table, field, target in (
            ("sample", "scene_token", "scene"),
            ("sample_data", "sample_token", "sample"),
            ("sample_data", "ego_pose_token", "ego_pose"),
            ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
            ("calibrated_sensor", "sensor_token", "sensor"),
        ):
            if target not in known:  # too big to be read
                continue
            lost = [r for r in tables[table] if r.get(field) not in known[target]]
            if lost:
                message = (
                    f"{len(lost)} records name a {field} that {target}.json doesn't have, "
                    f"the first is {lost[0].get('token')}"
                )
                path = folder / f"{table}.json"
                self._say("tables", "damaged", message, path, blocks=CLIPS, remedy=FETCH_TABLES)
        self._chains(folder, tables)

    def _chains(self, folder: Path, tables: dict[str, list[dict]]) -> None:
        samples = {s["token"]: s for s in tables["sample"]}
        sensors = {s["token"] for s in tables["sensor"] if s.get("channel") == "LIDAR_TOP"}
        mounted = {
            c["token"] for c in tables["calibrated_sensor"] if c.get("sensor_token") in sensors
        }
        clouds = {
            d["sample_token"]: d
            for d in tables["sample_data"]
            if d.get("is_key_frame") and d.get("calibrated_sensor_token") in mounted
        }
        content, _ = parse_json(folder / "lidarseg.json")
        points = {r.get("sample_data_token"): r.get("filename") for r in content or ()}
        taken: dict[str, str] = {}
        for scene in tables["scene"]:
            tokens, problem = follow(scene, samples, taken)
            frames = []
            for token in tokens:
                cloud = clouds.get(token, {})
                labels = points.get(cloud.get("token"))
                frames.append({"token": token, "lidar": cloud.get("filename"), "lidarseg": labels})
            if problem:
                message = f"scene {scene.get('name')} {problem}"
                path = folder / "sample.json"
                self._say("tables", "damaged", message, path, blocks=CLIPS, remedy=FETCH_TABLES)
            self.frames[scene.get("name")] = frames

    def annotations(self, tables: bool) -> None:
        """Occ3D's own list of scenes, enough by itself."""
        path = self.root / "annotations.json"
        if not path.exists():
            level, blocks = ("note", "") if tables else ("missing", CLIPS)
            self._say(
                "annotations",
                level,
                "not there (needed only without tables)",
                path,
                blocks=blocks,
                remedy="fetch it with Occ3D's gts",
            )
            return
        content, problem = parse_json(path)
        scenes = content.get("scene_infos") if isinstance(content, dict) else None
        if problem or not _are_infos(scenes):
            level, blocks = ("note", "") if tables else ("damaged", CLIPS)
            message = problem or "holds no usable scene_infos"
            self._say("annotations", level, message, path, blocks=blocks, remedy=FETCH_LABELS)
            return
        before = len(self.findings)
        for name, frames in scenes.items():
            known = {f["token"] for f in self.frames.get(name, ())}
            if known and known != set(frames):
                message = f"scene {name} has other keyframes than the tables"
                self._say("annotations", "damaged", message, path, remedy=FETCH_LABELS)
            ordered = sorted(frames, key=lambda t: int(frames[t].get("timestamp", 0)))
            self.frames.setdefault(name, [{"token": t} for t in ordered])
        for split in ("train_split", "val_split"):
            lost = [name for name in content.get(split, ()) if name not in scenes]
            if lost:
                message = f"{split} names {len(lost)} scenes that it doesn't describe: {lost[0]}"
                self._say("annotations", "damaged", message, path, remedy=FETCH_LABELS)
        if len(self.findings) == before:
            self._say("annotations", "ok", f"{len(scenes)} scenes", path)

    def splits(self) -> None:
        """The data set's own splits, where it has them."""
        path = self.root / "splits.json"
        if not path.exists():
            return
        content, problem = parse_json(path, dict)
        if problem is None and not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in content.values()
        ):
            content, problem = None, "holds something else than lists of scenes"
        names = [name for names in content.values() for name in names] if content else []
        lost = [name for name in names if name not in self.frames]
        if problem is None and lost:
            problem = f"names {len(lost)} scenes that aren't there: {lost[0]}"
        if problem is None and len(set(names)) < len(names):
            problem = "puts a scene into two splits: scores on it would mean nothing"
        if problem:
            self._say("splits", "damaged", problem, path, blocks=CLIPS, remedy=FETCH_TABLES)
        else:
            sizes = ", ".join(f"{len(v)} {k}" for k, v in content.items())
            self._say("splits", "ok", sizes, path)

    # ------------------------------------------------------------------ files per keyframe

    def labels(self) -> None:
        """Occ3D's `gts/<scene>/<token>/labels.npz`."""
        names = [
            f"gts/{name}/{frame['token']}/labels.npz"
            for name, frames in self.frames.items()
            for frame in frames
        ]
        paths = list(self._inside("labels", names, CLIPS).values())
        self._files("labels", paths, check_labels, CLIPS, FETCH_LABELS)

    def clouds(self) -> None:
        """Keyframe sweeps and their point labels."""
        frames = [f for scene in self.frames.values() for f in scene]
        named = self._inside("lidar", [f["lidar"] for f in frames if f.get("lidar")], CLIPS)
        clouds = list(named.values())
        remedy = "fetch the nuScenes file blobs again (LIDAR_TOP keyframes)"
        if clouds and not any(p.exists() for p in clouds):
            self._say("lidar", "note", "no sweeps here", clouds[0].parent, remedy=remedy)
        else:
            self._files("lidar", clouds, check_cloud, LIDAR, remedy)
        both = [f for f in frames if f.get("lidarseg") and f.get("lidar")]
        labelled = self._inside("lidarseg", [f["lidarseg"] for f in both], CLIPS)
        pairs = {
            labelled[repr(f["lidarseg"])]: named[repr(f["lidar"])]
            for f in both
            if repr(f["lidarseg"]) in labelled and repr(f["lidar"]) in named
        }

        def check(path: Path) -> str | None:
            return check_point_labels(path, pairs[path])

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
        damaged = [(path, problem) for path in looked if (problem := check(path))]
        for path, problem in damaged[:SHOWN]:
            self._say(area, "damaged", problem, path, blocks=blocks, remedy=remedy)
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
            problem = check_pickle(path)
            message = problem or "not needed, and never loaded: it could run code"
            self._say("pickles", "note", message, path)
        for path in sorted((self.root / ".occdistill").glob("*.json")):
            _, problem = parse_json(path)
            if problem:
                remedy = f"delete {path}; it is built again"
                self._say("caches", "damaged", problem, path, remedy=remedy)


def check_caches(folder: Path) -> list[Finding]:
    """Encoded clips and voxel caches below a folder."""
    findings = []
    for meta in sorted(folder.rglob("meta.json")):
        if meta.parent.name.endswith(".part"):
            findings.append(Finding("caches", "note", "an interrupted build", str(meta.parent)))
        elif problem := check_arrays(meta.parent):
            findings.append(
                Finding(
                    "caches",
                    "damaged",
                    problem,
                    str(meta.parent),
                    "training from this cache",
                    f"delete {meta.parent}; it is built again",
                )
            )
        else:
            findings.append(Finding("caches", "ok", "whole", str(meta.parent)))
    return findings


def _are_infos(scenes: Any) -> bool:
    """Whether this is by scene, by token, an object with a timestamp."""
    return isinstance(scenes, dict) and all(
        isinstance(frames, dict)
        and all(
            isinstance(frame, dict) and str(frame.get("timestamp", 0)).isdecimal()
            for frame in frames.values()
        )
        for frames in scenes.values()
    )


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spread."""
    if len(items) <= count:
        return items
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _edges(path: Path) -> tuple[Iterable, str | None]:
    """For a table too big to parse in passing: does it begin and end like a list?"""
    with open(path, "rb") as file:
        first = file.read(64).lstrip()[:1]
        file.seek(-64, os.SEEK_END)
        last = file.read().rstrip()[-1:]
    if first != b"[" or last != b"]":
        return [], "is cut off"
    return [], None

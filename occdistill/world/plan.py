"""Names, tokens and paths of a world's scenes: nothing but a function of seed and number."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KEYFRAMES = 40
KEYFRAME_GAP = 500_000
"""Microseconds between keyframes."""
SPLITS = ("train", "val")
_FIRST_TIME = 1_533_000_000_000_000


def token(*parts: object) -> str:
    """A 32-digit hex token that depends on nothing but its parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class ScenePlan:
    """Which scene to make (`seed`, `split`, `number`), and where it stands in its world."""

    seed: int
    split: str
    number: int
    index: int
    keyframes: int = KEYFRAMES
    recorded: str = ""
    """The name of the recorded scene that it re-enacts."""

    @property
    def name(self) -> str:
        """scene-0001, …, or as recorded."""
        return self.recorded or f"scene-{self.index + 1:04d}"

    @property
    def token(self) -> str:
        """The scene's token."""
        return token(self.seed, self.recorded or self.split, self.number)

    @property
    def stream(self) -> tuple[int, int, int]:
        """What its random numbers begin with; of a recorded scene not the split."""
        which = len(SPLITS) if self.recorded else SPLITS.index(self.split)
        return self.seed, which, self.number

    def sample_token(self, k: int) -> str:
        """Token of keyframe k; empty beyond the scene's ends, as the tables have it."""
        return token(self.token, "sample", k) if 0 <= k < self.keyframes else ""

    def sweep_token(self, k: int) -> str:
        """Token of keyframe k's LiDAR sweep and of the ego pose then; empty beyond the ends."""
        return token(self.token, "LIDAR_TOP", k) if 0 <= k < self.keyframes else ""

    def timestamp(self, k: int) -> int:
        """Time of keyframe k, microseconds."""
        return _FIRST_TIME + self.index * 120_000_000 + k * KEYFRAME_GAP

    def labels_path(self, k: int) -> str:
        """Label file of keyframe k, below the data root."""
        return f"gts/{self.name}/{self.sample_token(k)}/labels.npz"

    def cloud_path(self, k: int) -> str:
        """Point cloud of keyframe k, below the data root."""
        return f"samples/LIDAR_TOP/{self.name}__LIDAR_TOP__{self.timestamp(k)}.pcd.bin"

    def lidarseg_path(self, k: int, version: str) -> str:
        """Point labels of keyframe k, below the data root."""
        return f"lidarseg/{version}/{self.sweep_token(k)}_lidarseg.bin"


def plan_scenes(scenes: int, val_scenes: int, seed: int, keyframes: int) -> list[ScenePlan]:
    """Train scenes, then val scenes; the n-th scene of a split does not depend on the counts."""
    splits = [("train", n) for n in range(scenes)] + [("val", n) for n in range(val_scenes)]
    return [ScenePlan(seed, *which, index, keyframes) for index, which in enumerate(splits)]


def plan_recorded(
    lengths: Mapping[str, int], splits: Mapping[str, Sequence[str]], seed: int
) -> list[ScenePlan]:
    """Recorded scenes by name with their numbers of keyframes, train scenes first.

    What is drawn for a scene depends on its name and the seed, not on what else is recorded.
    """
    names = [(split, name) for split in SPLITS for name in splits[split]]
    return [
        ScenePlan(seed, split, int(token(name)[:7], 16), index, lengths[name], name)
        for index, (split, name) in enumerate(names)
    ]

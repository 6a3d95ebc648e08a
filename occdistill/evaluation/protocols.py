"""The field's evaluation protocols as data: which windows, which voxels, which averages.

Every published table follows one of these, and the rules alone move a number by points. A preset
says how a paper's released code scores; none of them says what the model was shown, so each
result carries its own conditioning class beside the one that the preset's numbers were made with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from occdistill.errors import UserError
from occdistill.evaluation.metrics import Rules

View = Literal["all", "camera", "lidar", "camera+lidar", "blank-camera", "changed"]


@dataclass(frozen=True)
class Protocol:
    """One way of scoring.

    Attributes:
        name: what `--protocol` takes.
        source: whose rule this is, and where it is to be read.
        history: past keyframes a window needs, the newest included; a window's future is 6 frames.
        skip_last: valid windows dropped at the end of each scene.
        first_only: one window per scene, the earliest.
        view: which voxels count; see `occdistill.evaluation.views`.
        rules: classes, absent and zero classes, rounding.
        average: the average that the source's table shows.
        conditioning: what the source's models know of the future ego motion.
        clips: windows on the 150 validation scenes of nuScenes (6,019 keyframes).
        remarks: what else differs from the default.
    """

    name: str
    source: str
    history: int
    clips: int
    skip_last: int = 0
    first_only: bool = False
    view: View = "all"
    rules: Rules = field(default_factory=Rules)
    average: Literal["avg@1,2,3s", "avg@all"] = "avg@1,2,3s"
    conditioning: str = "gt"
    remarks: str = ""
    future: int = 6

    def windows(self, length: int) -> range:
        """Indices of the newest past keyframe of every window in a scene of `length` keyframes."""
        first = self.history - 1
        last = length - self.future - 1 - self.skip_last
        if self.first_only:
            last = min(last, first)
        return range(first, last + 1)

    def count(self, lengths: Iterable[int]) -> int:
        """Number of windows in scenes of these lengths."""
        return sum(len(self.windows(length)) for length in lengths)


_ABSENT_ONE = Rules(absent="one")
_DROP_ZERO = Rules(absent="union", zero="drop", decimals=2)

PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            "occdistill",
            "this project: absent classes are left out and listed, zeros count, nothing is masked",
            history=4,
            clips=4669,
            conditioning="any, stated in the row",
        ),
        Protocol(
            "occworld",
            "Zheng et al., OccWorld, ECCV 2024; utils/metric_util.py, dataset/dataset.py",
            history=5,
            skip_last=2,
            clips=4219,
            rules=_ABSENT_ONE,
            conditioning="hist+1",
            remarks="the released loader reads one frame beyond the window and starts one window "
            "too few: two windows per scene are lost; the mode of the planner's command is true",
        ),
        Protocol(
            "occfm",
            "OccFM, NeurIPS 2025; forecast/utils/eval_utils.py",
            history=6,
            clips=4369,
            rules=_ABSENT_ONE,
            conditioning="hist+1 (the † rows: gt)",
            remarks="six history slots, the first two zeroed; the released console prints avg@all "
            "while the paper's table is avg@1,2,3s",
        ),
        Protocol(
            "dome",
            "Gu et al., DOME, 2024; tools/eval_metric.py, config/train_dome.py",
            history=4,
            first_only=True,
            clips=150,
            rules=_ABSENT_ONE,
            remarks="only the first ten keyframes of each scene",
        ),
        Protocol(
            "come-visible",
            "COME, 2025, camera rows; tools/test_diffusion_control.py",
            history=4,
            first_only=True,
            clips=150,
            view="blank-camera",
            rules=_ABSENT_ONE,
            conditioning="pred or gt",
            remarks="prediction and target are blanked outside the camera mask of the future "
            "frames; COME blanks the model's input too, which scoring can't do afterwards",
        ),
        Protocol(
            "i2world",
            "I2-World, ICCV 2025; mmdet3d/datasets/occ_metrics.py",
            history=5,
            clips=4519,
            rules=_DROP_ZERO,
            remarks="a class with IoU exactly 0 leaves the mean; two decimals",
        ),
        Protocol(
            "geniedrive",
            "GenieDrive, 2025; mmdet3d/datasets/occ_metrics.py",
            history=4,
            clips=4669,
            rules=_DROP_ZERO,
            remarks="a class with IoU exactly 0 leaves the mean; two decimals",
        ),
        Protocol(
            "uniscene-average",
            "UniScene, CVPR 2025; averages of its forecasting table",
            history=2,
            clips=4969,
            average="avg@all",
            conditioning="gt, boxes and map",
            remarks="UniScene's window set depends on its sampler; here: every window with two "
            "past frames",
        ),
    )
}
DEFAULT = PROTOCOLS["occdistill"]


def get_protocol(name: str) -> Protocol:
    """The preset of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]

"""Other people's numbers, cited, with what differs in how they were made. None was reproduced here.

All are on Occ3D-nuScenes validation scenes with ground-truth occupancy as input; percent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        model: method, and variant.
        source: where the numbers stand.
        conditioning: `none`, `hist+1`, `pred`, `gt` or `gt+…`: what it knows of the future.
        protocol: the preset of `occdistill.evaluation.protocols` closest to how it was scored.
        miou: at 1, 2, 3 s and averaged; None where not stated.
        iou: binary, the same.
        nfe: network evaluations, where it is a sampler.
        remark: what a reader must know before comparing.
    """

    model: str
    source: str
    conditioning: str
    protocol: str
    miou: tuple[float | None, float | None, float | None, float]
    iou: tuple[float | None, float | None, float | None, float | None]
    nfe: int | None = None
    remark: str = ""


_N = None
_UNKNOWN = (_N, _N, _N, _N)
_MFD = "MFD, arXiv 2606.11155, Table 1"
_COME = "COME's comparison table"
_MFD_ROWS = [
    ("OccFM teacher", 10, 28.49, 37.52),
    ("OccFM teacher", 5, 25.18, 36.05),
    ("OccFM teacher", 2, 13.72, 29.02),
    ("OccFM teacher", 1, 8.15, 27.42),
    ("Diff-Instruct", 1, 26.42, 36.41),
    ("Consistency distillation", 1, 20.70, 31.69),
    ("AYF", 1, 21.69, 32.38),
    ("DMD2", 1, 24.27, 35.84),
    ("SenseFlow", 1, 23.91, 35.40),
    ("MFD", 1, 27.25, 37.07),
]

PUBLISHED = (
    *(
        Published(name, _MFD, "gt", "occfm", (_N, _N, _N, miou), (_N, _N, _N, iou), nfe)
        for name, nfe, miou, iou in _MFD_ROWS
    ),
    Published(
        "OccFM",
        "OccFM, arXiv 2506.23434",
        "hist+1",
        "occfm",
        (33.17, 21.09, 15.64, 23.33),
        _UNKNOWN,
        10,
        "the history variant also holds the true step to the first future frame",
    ),
    Published(
        "OccFM†",
        "OccFM, arXiv 2506.23434 (mean IoU: MFD's table)",
        "gt",
        "occfm",
        (36.42, 27.39, 21.66, 28.49),
        (_N, _N, _N, 37.52),
        10,
    ),
    Published(
        "copy-last",
        f"OccWorld; {_COME}",
        "none",
        "occworld",
        (14.91, 10.54, 8.52, 11.33),
        (24.47, 19.77, 17.31, 20.52),
    ),
    Published(
        "OccWorld",
        "OccWorld, ECCV 2024",
        "hist+1",
        "occworld",
        (25.78, 15.14, 10.51, 17.14),
        (34.63, 25.07, 20.18, 26.63),
        remark="the planner's command comes from the true future",
    ),
    Published(
        "DOME",
        "DOME, 2024",
        "gt",
        "dome",
        (35.11, 25.89, 20.29, 27.10),
        (43.99, 35.36, 29.74, 36.36),
        20,
        "150 clips, all at scene starts; OccFM re-evaluates it at 22.18 mIoU on its own windows",
    ),
    Published(
        "COME",
        "COME, 2025, repository",
        "gt",
        "dome",
        (42.75, 32.97, 26.98, 34.23),
        (50.57, 43.47, 38.36, 44.13),
        remark="150 clips, all at scene starts",
    ),
    Published(
        "UniScene",
        f"UniScene, CVPR 2025; {_COME}",
        "gt+boxes+map",
        "uniscene-average",
        (35.37, 29.59, 25.08, 31.76),
        (38.34, 32.70, 29.09, 34.84),
        remark="average over six frames; over 1, 2, 3 s it is 30.01 mIoU and 33.38 IoU",
    ),
    Published(
        "I2-World",
        "I2-World, ICCV 2025",
        "gt",
        "i2world",
        (47.62, 38.58, 32.98, 39.73),
        (54.29, 49.43, 45.69, 49.80),
        remark="classes with IoU exactly 0 are left out of the mean",
    ),
    Published(
        "GenieDrive",
        "GenieDrive, arXiv 2512.12751, repository",
        "gt",
        "geniedrive",
        (50.47, 41.47, 35.83, 42.59),
        (56.87, 51.46, 47.08, 51.80),
        remark="classes with IoU exactly 0 are left out of the mean",
    ),
)

"""configs/demo_hist.py from an untrained teacher to scores, in a few updates on a small world."""

import json
from pathlib import Path

import pytest

from occdistill.build.builders import build_teacher
from occdistill.build.config import load_config
from occdistill.errors import UserError
from tests.tool import call

CONFIG = "configs/demo_hist.py"
SMALLER = (
    "network.width=16", "sampler.steps=1", "method.ratio=1", "method.ode_step=0.5",
    "train_teacher.iterations=2", "train_teacher.batch_size=2", "train_teacher.val_clips=1",
    "train_teacher.mirror=False", "train_distill.iterations=1", "train_distill.batch_size=2",
    "train_distill.val_clips=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def score(tiny_world, tmp_path_factory):
    """Rows of tools/test.py with these options, after teacher and student were trained."""
    folder = tmp_path_factory.mktemp("hist")
    places = dict(
        work_dir=folder, cache_dir=folder / "cache", teacher_checkpoint=folder / "teacher.pth"
    )
    options = (f"{key}={value}" for key, value in {**places, "data.dataroot": tiny_world}.items())
    common = ("--device", "cpu", "--cfg-options", *options, *SMALLER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])  # the shipped autoencoder's path is relative
        for part in ("teacher", "distill"):
            call(patch, "_train", CONFIG, *common, description=__doc__, part=part)

        def rows(*more):
            student = folder / "mfd" / "student.pth"
            call(
                patch, "test", CONFIG, student, "--out", folder / "out", "--teacher-nfe", 1,
                "--limit-clips", 1, "--repeats", 0, *more, *common,
            )  # fmt: skip
            return json.loads((folder / "out" / "report.json").read_text())["rows"]

        yield rows


def test_teacher_and_student_know_the_past_alone_and_so_do_their_rivals(score):
    rows = score()
    assert [(r["model"], r["conditioning"]) for r in rows] == [
        ("teacher", "none"),
        ("student", "none"),
        ("copy-last", "none"),
        ("ego-warp, extrapolated", "none"),
        ("ego-warp, extrapolated, objects carried", "none"),
        ("VAE ceiling", "truth"),
    ]
    teacher, student = rows[:2]
    assert teacher["checkpoint"] != student["checkpoint"]
    assert teacher["cache"] == student["cache"] is not None  # both trained on the same clips
    assert (student["align"], student["carry"]) == ([0, 1, 2, 3], True)


def test_a_single_rival_can_be_asked_for(score):
    rows = score("--rows", "ego-warp", "ego-warp-extrapolated")
    assert [r["model"] for r in rows] == ["ego-warp, extrapolated"]
    with pytest.raises(UserError, match="nothing to score: of --rows ego-warp this config"):
        score("--rows", "ego-warp")


def test_the_missing_teacher_is_named_with_its_command(tmp_path):
    config = load_config(CONFIG, {"teacher_checkpoint": str(tmp_path / "teacher.pth")})
    with pytest.raises(UserError, match="tools/train_teacher.py configs/demo_hist.py"):
        build_teacher(config)

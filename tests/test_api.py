"""What `import occdistill` offers: ten lines from weights to a scored, drawn forecast."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import occdistill
from occdistill import places
from occdistill.build.pretrained import PRETRAINED
from occdistill.data.poses import invert


@pytest.fixture(scope="module")
def forecaster():
    return occdistill.Forecaster.from_pretrained("demo")


@pytest.fixture(scope="module")
def clip(forecaster, tiny_world):
    clips = occdistill.load_scene(forecaster, tiny_world)
    assert len(clips) == 3  # twelve keyframes, clips of ten
    return clips[1]


def test_importing_the_package_imports_nothing_heavy():
    command = "import sys, occdistill; dir(occdistill); print('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", command], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
    assert time.perf_counter() - start < 5  # a tenth of that on a machine with nothing else to do


def test_what_is_offered_is_there():
    assert {"Forecaster", "load_scene", "score", "draw", "constant_velocity"} <= set(
        dir(occdistill)
    )
    for name in occdistill.__all__:
        assert getattr(occdistill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Forcaster'"):
        occdistill.Forcaster  # noqa: B018


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_name_is_shipped_and_says_what_it_is(name):
    said = repr(occdistill.Forecaster.from_pretrained(name))
    assert "SpaceTimeUNet: 4 past → 6 future frames" in said and "1 evaluation, plain" in said


def test_a_folder_is_its_student_and_a_teacher_runs_as_its_config_says():
    folder = occdistill.Forecaster.from_pretrained(places.WEIGHTS)
    assert (folder.nfe, folder.guidance) == (1, None)
    teacher = occdistill.Forecaster.from_pretrained(places.WEIGHTS / "teacher.pth")
    assert (teacher.nfe, teacher.guidance) == (10, 2.0)
    light = occdistill.Forecaster.from_pretrained("demo", decoder="light", nfe=2)
    assert light.nfe == 2 and light.codec.vae is not folder.codec.vae


def test_a_clip_is_the_data_sets_own(forecaster, clip, tiny_world):
    from occdistill.data.clips import ClipDataset
    from occdistill.data.occ3d import GridTransform

    item = ClipDataset(tiny_world, "v1.0-synthetic", "val", transform=GridTransform(19.2, 2))[1]
    assert torch.equal(clip.past[0], item["past"]) and torch.equal(clip.future[0], item["future"])
    assert torch.equal(torch.cat([clip.poses, clip.plan], 1)[0], item["poses"])
    assert forecaster.grid.shape == clip.past.shape[2:]


def forecast(forecaster, *given, **more):
    return forecaster(*given, generator=torch.Generator().manual_seed(0), **more)


def test_the_plan_matters_and_is_drawn_or_the_last_motion_goes_on(forecaster, clip, monkeypatch):
    future = forecast(forecaster, clip.past, clip.poses, clip.plan)
    assert future.shape == clip.future.shape and future.dtype == torch.uint8
    whole = forecast(forecaster, clip.past, torch.cat([clip.poses, clip.plan], 1))
    assert torch.equal(future, whole)
    still = clip.poses[:, -1:].expand(-1, 7, -1, -1)
    assert not torch.equal(forecast(forecaster, clip.past, clip.poses, still), future)
    on = occdistill.constant_velocity(clip.poses, 7)
    drawn = forecast(forecaster, clip.past, clip.poses, samples=2)
    assert drawn.shape == (1, 2, *clip.future.shape[1:]) and not torch.equal(*drawn[0])
    monkeypatch.setattr(forecaster, "planner", None)
    assumed = forecast(forecaster, clip.past, clip.poses)
    assert torch.equal(assumed, forecast(forecaster, clip.past, clip.poses, on))


def test_constant_velocity_repeats_the_last_step():
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[0, 0, 0, 3] = -3.0  # three metres in half a second
    plan = occdistill.constant_velocity(poses.numpy(), 4)
    assert plan[0, :, 0, 3].tolist() == [3, 6, 9, 12]


def test_poses_may_be_in_any_fixed_frame(forecaster, clip):
    turned = np.eye(4)
    turned[:2, :2], turned[:2, 3] = [[0, -1], [1, 0]], [100.0, -50.0]
    poses, plan = turned @ clip.poses.double().numpy(), turned @ clip.plan.double().numpy()
    ours = forecast(forecaster, clip.past, clip.poses, clip.plan)
    theirs = forecast(forecaster, clip.past.numpy(), poses, plan)
    assert (ours != theirs).float().mean() < 1e-3  # rounding moves a voxel at most here and there
    assert np.allclose(invert(poses[:, -1:]) @ plan, clip.plan, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(past=lambda x: x[0]), r"not \(batch, 4, 48, 48, 8\): a single clip is past\[None\]"),
        (dict(past=lambda x: x.float()), "float32, not .* uint8"),
        (dict(past=lambda x: x[..., :4]), r"\(48, 48, 4\) uint8, not \(48, 48, 8\)"),
        (dict(past=lambda x: x + 90), "class id 107"),
        (dict(past=lambda x: x[:, :2]), "2 frames, and SpaceTimeUNet takes 4"),
        (dict(poses=lambda x: None), "poses are missing"),
        (dict(poses=lambda x: x[:, :2]), "2 poses for 4 past frames"),
        (dict(poses=lambda x: x[0]), r"poses: \(4, 4, 4\), not \(1, frames, 4, 4\)"),
        (dict(poses=lambda x: x * float("nan")), "not all are finite"),
        (dict(plan=lambda x: x[:, :3]), "a plan of 6 poses, and 3 are given"),
        (dict(plan=lambda x: x[0]), "the plan: "),
    ],
)
def test_each_mistake_gets_its_sentence(forecaster, clip, change, message):
    given = clip._asdict()
    del given["future"]
    for name, wrong in change.items():
        given[name] = wrong(given[name])
    with pytest.raises(ValueError, match=message):
        forecaster(**given)


def test_scores_are_the_tables(clip):
    perfect = occdistill.score(clip.future, clip.future)
    assert perfect["IoU"]["avg@1,2,3s"] == perfect["mIoU"]["3.0s"] == 100
    one = clip.future.clone()
    filled = torch.nonzero(one[0, 1] != 17)
    one[0, 1, *filled[0]] = 17  # one voxel less a second ahead
    scores = occdistill.score(one[0], clip.future[0].numpy())
    assert scores["IoU"]["1.0s"] == pytest.approx(100 * (1 - 1 / len(filled)))
    assert scores["IoU"]["0.5s"] == 100
    with pytest.raises(occdistill.UserError, match="can't be compared"):
        occdistill.score(clip.future, clip.future[0])


def test_a_drawing_and_its_refusals(clip, forecaster, tmp_path):
    rows = {"truth": clip.future, "again": clip.future[0].numpy()}
    path = occdistill.draw(
        tmp_path / "f.png", clip.past, rows, forecaster.grid, size=(96, 96), style="bev"
    )
    assert path.stat().st_size > 1000
    with pytest.raises(occdistill.UserError, match="the past is .* not one clip"):
        occdistill.draw(path, clip.past.repeat(2, 1, 1, 1, 1), rows, forecaster.grid)


def test_a_street_is_made_where_there_are_no_data(forecaster):
    clips = occdistill.load_scene(forecaster, seed=3)
    first, second = clips[:2]
    assert torch.equal(first.past[:, 1:], second.past[:, :-1])
    assert torch.equal(first.future[:, 0], second.past[:, -1])
    torch.testing.assert_close(first.poses[0, -1], torch.eye(4))
    assert not torch.equal(occdistill.load_scene(forecaster, seed=4)[0].past, first.past)


def test_no_such_scene(forecaster, tiny_world):
    with pytest.raises(occdistill.UserError, match="no scene scene-9999 in"):
        occdistill.load_scene(forecaster, tiny_world, "scene-9999")

"""The planner from config to plans, on the small world."""

import pytest
import torch

from occdistill import UserError, places
from occdistill import checkpoint as ckpt
from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.pretrained import planner, planner_for
from occdistill.data.plans import poses_of, steps_between
from occdistill.training.plan import PlanClips, PlanScore, driven
from occdistill.training.train import train


@pytest.fixture
def config(tiny_world, tmp_path):
    small = dict(iterations=2, batch_size=4, warmup=1, val_interval=2, checkpoint_interval=2)
    changes = {f"train_{p}.{k}": v for p in ("plan", "distill") for k, v in small.items()}
    return load_config(
        "configs/demo_plan.py",
        {
            **changes,
            "data.dataroot": str(tiny_world),
            "plan_checkpoint": str(tmp_path / "plan.pth"),
            "work_dir": str(tmp_path),
            "method.ratio": 1,
            "network.width": 16,
        },
    )


def test_a_planner_is_trained_distilled_and_asked_for_plans(config, tmp_path):
    train(config, "plan")
    student = train(config, "distill").weights
    whole, short = planner(tmp_path / "plan.pth"), planner(student)
    assert (whole.nfe, short.nfe, short.past) == (10, 1, 4)
    state = ckpt.load(student)
    assert state["fingerprints"]["conditioning"] == "4 past frames, plan"
    assert state["fingerprints"]["teacher"] == whole.mark
    poses = torch.eye(4).repeat(3, 4, 1, 1)
    plan = short(poses, torch.randn(3, *short.shape))
    assert plan.shape == (3, 6, 4, 4) and plan.isfinite().all()


def test_what_is_trained_on_is_what_was_driven_and_its_mirror_image(config):
    clips = build_dataset(config, "train")
    past, plans = driven(clips, mirror=True)
    count = len(clips)
    assert len(past) == 2 * count and past.shape[1:] == (3, 3) and plans.shape[1:] == (6, 3)
    poses = torch.from_numpy(clips.motion(2)[0])
    torch.testing.assert_close(plans[2], steps_between(poses)[3:])
    where = poses_of(plans[2])[-1, :2, 3]
    torch.testing.assert_close(where, poses[-1, :2, 3], atol=0.05, rtol=0)  # but for hills
    torch.testing.assert_close(plans[count + 2] * torch.tensor([1.0, -1.0, -1.0]), plans[2])


def test_validation_of_the_truth_is_perfect_and_of_the_rule_is_not(config):
    from occdistill.flow.networks.plan import PlanField

    clips = build_dataset(config, "val")
    score, (past, plans) = PlanScore(clips, nfe=1), driven(clips)
    assert score.of(score.true[:, None])["energy"] == pytest.approx(0, abs=1e-5)
    assert score.rule()["energy"] > 0.01
    field = PlanField(width=8)
    field.fit_scales(past, plans)
    item = PlanClips(past, plans, field)[1]
    torch.testing.assert_close(
        field.plans(item["future"][None], item["trajectory"][None])[0], plans[1]
    )


def test_what_is_no_planner_is_refused(config):
    with pytest.raises(UserError, match="holds a distill, not a planner"):
        planner(places.WEIGHTS / "student.pth")
    config.network = load_config("configs/demo.py").network
    with pytest.raises(UserError, match="PlanField of the motion alone, not a SpaceTimeUNet"):
        train(config, "plan")
    assert planner_for(load_config("configs/demo_hist.py")) is None  # it takes no plan

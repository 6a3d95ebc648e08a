import re
from pathlib import Path

import pytest
import torch

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_codec,
    build_dataset,
    build_forecaster,
    build_method,
    build_network,
    build_teacher,
    build_vae,
    conditioning_mark,
)
from occdistill.build.config import data_root, load_config
from occdistill.distill.flow_map import two_time
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.runtime.forecaster import Forecaster

DEMO = "configs/demo.py"


def test_shipped_configs_load_and_hold_no_imports():
    for path in Path("configs").glob("*.py"):
        config = load_config(path)
        assert "read_base" not in config and "VAE" not in config
    assert load_config(DEMO, {"guidance": 3.0}).guidance == 3.0


def test_overrides_that_replace_a_whole_dict_can_be_used_twice():
    options = {"method": {"_delete_": True, "type": VelocityMatching, "ratio": 5}}
    for _ in range(2):  # merging must leave the caller's dict alone
        assert set(load_config(DEMO, options).method) == {"type", "ratio"}


@pytest.mark.parametrize(
    "override, hint",
    [
        ({"guidence": 2.0}, "guidance"),
        ({"data.corsen": 2}, "data.coarsen"),
        ({"vae.chanels": 16}, "vae.channels"),
        ({"method.ode_stp": 0.1}, "method.ode_step"),
        ({"train_distill.learning": 1}, "known"),
        ({"train_distill.moving_weight": 5.0}, "known"),  # of another job
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(override, hint):
    with pytest.raises(UserError, match=hint) as error:
        load_config(DEMO, override)
    assert next(iter(override)) in str(error.value)


def test_missing_and_broken_configs_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no config file"):
        load_config(tmp_path / "absent.py")
    broken = tmp_path / "broken.py"
    broken.write_text("data = dict(")
    with pytest.raises(UserError, match="doesn't load"):
        load_config(broken)


def test_shipped_vae_and_a_student_of_it_make_a_forecaster(tmp_path):
    config = load_config(DEMO)
    vae = build_vae(config)
    student = tmp_path / "student.pth"
    weights = build_network(config).state_dict()

    def save(fingerprint):
        state = {"kind": "distill", "model": weights, "fingerprints": {"vae": fingerprint}}
        checkpoints.save(student, state)

    save(checkpoints.fingerprint(vae.state_dict()))
    forecaster = build_forecaster(config, student)
    past = torch.full((1, 4, 48, 48, 8), 17, dtype=torch.uint8)
    poses = torch.eye(4).repeat(1, 10, 1, 1)
    assert forecaster(past, poses).shape == (1, 6, 48, 48, 8)
    save("0" * 12)
    with pytest.raises(UserError, match="trained on the latents of VAE 000000000000"):
        build_forecaster(config, student)


@pytest.mark.parametrize(
    "override, message",
    [
        ({"conditioning.kind": "none"}, "conditioning.kind is 'none'; it can be gt, hist, hist.1"),
        ({"conditioning.align": (0, 4)}, r"conditioning.align is \(0, 4\), but the 4 past"),
        ({"conditioning.align": (1, 2)}, "conditioning.carry .* conditioning.align must hold 0"),
        ({"conditioning.align": (0,), "data.past": 2}, "conditioning.carry .* data.past is 2"),
    ],
)
def test_a_conditioning_that_cannot_be_is_one_sentence(override, message):
    config = load_config(DEMO, override)
    with pytest.raises(UserError, match=message):
        build_codec(config, build_vae(config, weights=False))


def test_no_config_can_show_a_history_model_more_of_the_future():
    with pytest.raises(UserError, match="unknown key conditioning.trajectory_length"):
        load_config("configs/nus_hist.py", {"conditioning.trajectory_length": 7})


def test_missing_weights_say_how_to_make_them():
    config = load_config(DEMO, {"vae_checkpoint": "nowhere/vae.pth"})
    with pytest.raises(UserError, match="train_vae.py configs/demo_train.py"):
        build_vae(config)


@pytest.mark.parametrize(
    "override, message",
    [
        ({"method.times": {"men": 0.4}}, "the config's MFD can't be built: .*men"),
        ({"method.times": {"law": "normal"}}, "the config's MFD can't be built: time law 'normal'"),
        ({"network.width": 50}, "the config's SpaceTimeUNet can't be built: "),
    ],
)
def test_arguments_that_a_class_refuses_are_one_sentence(override, message):
    config = load_config(DEMO, override)
    with pytest.raises(UserError, match=message):
        build_method(config, (6, 8, 24, 24), build_network(config))


def test_a_condition_of_other_frames_than_the_network_takes_is_one_sentence():
    config = load_config(DEMO, {"conditioning.align": (0,)})
    forecaster = Forecaster(build_codec(config, build_vae(config)), build_network(config))
    past = torch.full((1, 4, 48, 48, 8), 17, dtype=torch.uint8)
    with pytest.raises(UserError, match="takes 4 past frames, 4 aligned .* give 4, 1 and 10"):
        forecaster(past, torch.eye(4).repeat(1, 10, 1, 1))


def test_weights_of_another_conditioning_are_refused(tmp_path):
    config = load_config(DEMO)
    weights = build_network(config).state_dict()
    path = tmp_path / "student.pth"
    mark = {"conditioning": conditioning_mark(config)}
    assert mark["conditioning"] == "4 past frames, gt, aligned 0 1 2 3, objects carried"
    checkpoints.save(path, {"kind": "distill", "model": weights, "fingerprints": mark})
    build_forecaster(config, path)
    checkpoints.save(path, {"kind": "teacher", "model": weights, "fingerprints": mark})
    other = load_config(DEMO, {"conditioning.carry": False, "teacher_checkpoint": str(path)})
    with pytest.raises(UserError, match=r"trained with other conditioning \(.*objects carried\)"):
        build_forecaster(other, path)
    with pytest.raises(UserError, match="trained with other conditioning"):
        build_teacher(other)


def test_a_flow_map_student_is_loaded_with_its_end_clock(tmp_path):
    config = load_config(DEMO)
    student, path = two_time(build_network(config)), tmp_path / "student.pth"
    state = {"kind": "distill", "model": student.state_dict(), "fingerprints": {}}
    checkpoints.save(path, state)
    assert build_forecaster(config, path)._field.two_time


def test_a_missing_data_root_is_told_with_the_config_s_own_advice():
    config = load_config("configs/nus.py", {"data.dataroot": "nowhere"})
    for build in (data_root, lambda config: build_dataset(config, "val")):
        with pytest.raises(
            UserError, match=r"no data at .*nowhere; " + re.escape(config.advice.data)
        ):
            build(config)
    assert MAKE_WORLD in load_config(DEMO).advice.data  # what tools/demo.py runs

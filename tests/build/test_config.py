import re
from pathlib import Path

import pytest
import torch

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_codec,
    build_dataset,
    build_method,
    build_network,
    build_teacher,
    build_vae,
    conditioning_mark,
)
from occdistill.build.config import data_root, load_config
from occdistill.build.models import Models
from occdistill.distill.flow_map import two_time
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.distill.x_prediction import XPrediction
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.runtime.forecaster import Forecaster

DEMO = "configs/demo.py"


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda p: p.stem)
def test_shipped_configs_load_and_hold_no_imports(path):
    config = load_config(path)
    assert config.data and "read_base" not in config and "VAE" not in config


def test_options_of_the_command_line_replace_what_the_file_says():
    assert load_config(DEMO, {"guidance": 3.0}).guidance == 3.0


def test_overrides_that_replace_a_whole_dict_can_be_used_twice():
    options = {"method": {"_delete_": True, "type": VelocityMatching, "ratio": 5}}
    for _ in range(2):  # merging must leave the caller's dict alone
        assert set(load_config(DEMO, options).method) == {"type", "ratio"}
    given = {"iterations": 3, "batch_size": 2}  # there is none to replace
    assert load_config(DEMO, {"train_teacher": {"_delete_": True, **given}}).train_teacher == given


@pytest.mark.parametrize(
    "override, hint",
    [
        ({"guidence": 2.0}, "guidance"),
        ({"data.corsen": 2}, "data.coarsen"),
        ({"vae.chanels": 16}, "vae.channels"),
        ({"method.ode_stp": 0.1}, "method.ode_step"),
        ({"train_distill.learning": 1}, "known"),
        ({"train_distill.moving_weight": 5.0}, "known"),  # of another job
        ({"method.times.men": 0.4}, "method.times.mean"),
        ({"data.transform": None}, "known"),  # of the class, but not for a config to say
        ({"light_decoder.widht": (8,)}, "light_decoder.width"),
        ({"advice.teecher": "none"}, "advice.teacher"),
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(override, hint):
    with pytest.raises(UserError, match=hint) as error:
        load_config(DEMO, override)
    assert next(iter(override)) in str(error.value)


@pytest.mark.parametrize(
    "override, sentence",
    [
        ({"train_distill.iterations": "ten"}, "is 'ten'; it should be a valid integer"),
        ({"train_distill.iterations": True}, "is True; it should be a valid integer"),
        ({"train_distill.iterations": 0}, "is 0; it should be greater than or equal to 1"),
        ({"train_distill.batch_size": 2.0}, "is 2.0; it should be a valid integer"),
        ({"train_distill.ema": 1.0}, "is 1.0; it should be less than 1"),
        ({"train_distill.lr": 0}, "is 0; it should be greater than 0"),
        ({"train_distill.amp": "no"}, "is 'no'; it should be a valid boolean"),
        ({"train_distill.hand_over": "first"}, "is 'first'; it should be 'last' or 'best'"),
        ({"data.crop": True}, "is True; it should be a valid number"),
        ({"data.past": 0}, "is 0; it should be greater than or equal to 1"),
        ({"data.past_from": "radar"}, "is 'radar'; it should be 'occ3d' or 'lidar'"),
        ({"vae.width": 64}, "is 64; it should be a valid tuple"),
        ({"network.latent_shape": (8, 24)}, "network.latent_shape"),
        ({"network.two_time": 1}, "is 1; it should be a valid boolean"),
        ({"method.ode_step": "small"}, "is 'small'; it should be a valid number"),
        ({"method.times.law": "normal"}, "is 'normal'; it should be 'logit_normal'"),
        ({"conditioning.kind": "none"}, "is 'none'; it should be 'gt', 'hist' or 'hist.1'"),
        ({"guidance": float("nan")}, "is nan; it should be a finite number"),
        ({"sampler.temperature": -0.1}, "is -0.1; it should be greater than or equal to 0"),
        ({"sampler.steps": 0}, "is 0; it should be greater than or equal to 1"),
        ({"work_dir": 3}, "is 3; it should be a valid string"),
        ({"sampler": 3}, "is 3; it should be a dict of steps, shift, temperature"),
        ({"method": "MFD"}, "method needs type=<a class>"),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_where_it_stands(override, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_config(DEMO, override)
    assert f"{DEMO}: {next(iter(override))}" in str(error.value)


def test_one_entry_of_many_is_refused_by_its_place():
    with pytest.raises(
        UserError, match=r"conditioning.align\[1\] is 'b'; it should be a valid int"
    ):
        load_config(DEMO, {"conditioning.align": (0, "b")})
    with pytest.raises(UserError, match="train_distill.lr.student is -1; it should be greater"):
        load_config(DEMO, {"train_distill.lr": {"student": -1, "_delete_": True}})


def test_what_means_the_same_is_fine():
    """An int for a float, a list for a tuple, a path for a string, nothing for a part."""
    config = load_config(
        DEMO,
        {
            "guidance": 2, "conditioning.align": [0, 1], "data.dataroot": Path("data/world"),
            "train_distill.lr": {"student": 1, "_delete_": True}, "light_decoder": None,
            "method.times": {"mean": 1}, "train_distill.final_lr": None,
        },
    )  # fmt: skip
    assert config.guidance == 2 and config.light_decoder is None


def test_an_option_below_a_number_is_one_sentence():
    with pytest.raises(UserError, match="can't take these options: .*lr"):
        load_config(DEMO, {"train_distill.lr.student": 1e-4})


def test_a_training_says_how_long_it_is():
    with pytest.raises(UserError, match="demo.py lacks train_vae.iterations"):
        load_config(DEMO, {"train_vae.batch_size": 2})


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
    forecaster = Models(config).forecaster(student)
    past = torch.full((1, 4, 48, 48, 8), 17, dtype=torch.uint8)
    poses = torch.eye(4).repeat(1, 10, 1, 1)
    assert forecaster(past, poses).shape == (1, 6, 48, 48, 8)
    save("0" * 12)
    with pytest.raises(UserError, match="trained on the latents of VAE 000000000000"):
        Models(config).forecaster(student)


@pytest.mark.parametrize(
    "override, message",
    [
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
        (
            {"method.times": {"low": 0.5, "high": 0.4}},
            "the config's MFD can't be built: times need",
        ),
        ({"network.width": 50}, "the config's SpaceTimeUNet can't be built: "),
    ],
)
def test_arguments_that_a_class_refuses_are_one_sentence(override, message):
    config = load_config(DEMO, override)
    with pytest.raises(UserError, match=message):
        build_method(config, (6, 8, 24, 24), build_network(config))


def test_a_method_that_asks_for_the_decoder_gets_the_configs_own():
    config = load_config(DEMO, {"method": {"_delete_": True, "type": XPrediction}})
    method = build_method(config, (6, 8, 24, 24), build_network(config))
    decoder = build_vae(config)
    latents = torch.randn(2, *decoder.latent_shape)
    assert torch.equal(method.decoder.logits(latents), decoder.logits(latents))
    assert not any(p.requires_grad for p in method.decoder.parameters())


def test_a_condition_of_other_frames_than_the_network_takes_is_one_sentence():
    config = load_config(DEMO, {"conditioning.align": (0,)})
    with pytest.raises(UserError, match="takes 4 aligned frames, but conditioning.align gives 1"):
        Forecaster(build_codec(config, build_vae(config)), build_network(config))


def test_weights_of_another_conditioning_are_refused(tmp_path):
    config = load_config(DEMO)
    weights = build_network(config).state_dict()
    path = tmp_path / "student.pth"
    mark = {"conditioning": conditioning_mark(config)}
    assert mark["conditioning"] == "4 past frames, gt, aligned 0 1 2 3, objects carried"
    checkpoints.save(path, {"kind": "distill", "model": weights, "fingerprints": mark})
    Models(config).forecaster(path)
    checkpoints.save(path, {"kind": "teacher", "model": weights, "fingerprints": mark})
    other = load_config(DEMO, {"conditioning.carry": False, "teacher_checkpoint": str(path)})
    with pytest.raises(UserError, match=r"trained with other conditioning \(.*objects carried\)"):
        Models(other).forecaster(path)
    with pytest.raises(UserError, match="trained with other conditioning"):
        build_teacher(other)


def test_a_flow_map_student_is_loaded_with_its_end_clock(tmp_path):
    config = load_config(DEMO)
    student, path = two_time(build_network(config)), tmp_path / "student.pth"
    state = {"kind": "distill", "model": student.state_dict(), "fingerprints": {}}
    checkpoints.save(path, state)
    assert Models(config).forecaster(path)._field.two_time


def test_a_missing_data_root_is_told_with_the_config_s_own_advice():
    config = load_config("configs/nus.py", {"data.dataroot": "nowhere"})
    for build in (data_root, lambda config: build_dataset(config, "val")):
        with pytest.raises(
            UserError, match=r"no data at .*nowhere; " + re.escape(config.advice.data)
        ):
            build(config)
    assert MAKE_WORLD in load_config(DEMO).advice.data  # what tools/demo.py runs

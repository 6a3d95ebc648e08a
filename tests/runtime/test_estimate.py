"""What forecasts take is counted without running them, said before, and shown on the way."""

import pytest
import torch

from occdistill.build.builders import (
    build_aligner,
    build_codec,
    build_light,
    build_network,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.runtime import estimate, roofline
from occdistill.runtime.bench import count_stages, street
from occdistill.runtime.estimate import Operations, announced, duration, live, operations
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.roofline import Ceiling
from tests.runtime.fakes import ToNewest, codec
from tests.runtime.test_planner import ToAligned


def forecaster_of(path, **options):
    config = load_config(path)
    vae = build_vae(config, weights=False)
    return Forecaster(build_codec(config, vae), build_network(config), **options)


def test_the_count_is_what_the_networks_do_as_they_are_written():
    plain = forecaster_of("configs/demo.py", guidance=2.0, backend="plain")
    work = operations(plain, 4)
    encode, evaluate, decode = count_stages(plain, street(4, 6, plain.codec.vae.grid_shape))
    assert work.aligned == 24 and work.future == 6 and work.nfe == 1
    assert (1 + 24) * work.encode == pytest.approx(encode.flops, rel=1e-3)
    assert work.evaluate == pytest.approx(evaluate.flops, rel=1e-3)
    assert 6 * work.decode == pytest.approx(decode.flops, rel=1e-3)
    unguided = operations(forecaster_of("configs/demo.py"), 4)
    assert 2 * unguided.evaluate == work.evaluate


def test_full_size_is_counted_in_a_moment():
    """227 GFLOP to encode a frame and 393 to decode six, as `configs/_base_/nus.py` says."""
    full = forecaster_of("configs/nus.py", backend="plain")
    work = operations(full, 6)
    assert work.encode == pytest.approx(227e9, rel=0.01)
    assert 6 * work.decode == pytest.approx(393e9, rel=0.01)
    assert work.aligned == 0 and work.evaluate > 1e11


def test_frames_that_the_light_encoder_encodes_are_counted_as_its_own():
    config = load_config("configs/nus_aligned.py")
    vae = build_vae(config, weights=False)
    light = build_light(config, vae, weights=False)
    codec = build_codec(config, vae, build_aligner(config, vae, light))
    work = operations(Forecaster(codec, build_network(config), backend="plain"), 4)
    assert work.encode == pytest.approx(227e9, rel=0.01)
    assert work.past(0) == 6 * work.encode_aligned == pytest.approx(40e9, rel=0.02)


def test_a_total_is_made_of_frames_evaluations_and_futures():
    work = Operations(
        encode=5, encode_aligned=1, evaluate=100, decode=10_000, aligned=2, nfe=3, future=6
    )
    assert work.past(5) == 27 and work.past(5, 3) == 31
    assert work.futures() == 60_300 and work.futures(2) == 120_600


@pytest.mark.parametrize(
    "seconds, said",
    [(0.31, "0.3 s"), (42.3, "42 s"), (99.0, "99 s"), (600, "10 min"), (9000, "2.5 h")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.fixture
def long(monkeypatch):
    """A machine of a thousand operations a second, to which all is long."""
    work = Operations(100, 100, 1000, 10, aligned=0, nfe=2, future=2)
    monkeypatch.setattr(estimate, "operations", lambda *_: work)
    monkeypatch.setattr(estimate, "QUICK", 1)
    monkeypatch.setattr(roofline, "ceiling", lambda *_, **__: Ceiling(1e-6, 1.0))
    bars = []

    class Bar(estimate.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append((self.total, []))

        def update(self, n=1):
            bars[-1][1].append(round(n * 1e9))
            super().update(n)

        def reset(self, total=None):
            bars[-1][1].append("again")
            super().reset(total)

    monkeypatch.setattr(estimate, "tqdm", Bar)
    return bars


class Straight:
    """A planner whose car stands."""

    shape = (2, 3)

    def __call__(self, poses, noise):
        return torch.eye(4).repeat(len(poses), 3, 1, 1)


def clip_of(frames=3):
    past = torch.randint(0, 18, (1, frames, 8, 8, 2), dtype=torch.uint8)
    poses = torch.eye(4).repeat(1, frames, 1, 1)
    return past, poses, torch.zeros(1, frames, 2)


def test_several_forecasters_move_one_bar_to_its_end(long, capsys):
    made = [Forecaster(codec(), ToNewest(), nfe=2) for _ in range(2)]
    clip = clip_of()
    with announced([(made[0], 1), (made[1], 3)], 3) as watched:
        condition = watched[0].condition(*clip, watched[0].frames(clip[0]))
        torch.manual_seed(0)
        found = [one.futures(condition, count) for one, count in zip(watched, (1, 3))]
    ((total, moves),) = long
    assert total == pytest.approx(1e-9 * (3 * 100 + (1 + 3) * (2 * 1000 + 2 * 10)))
    assert moves == [100] * 3 + [1000, 1000, 20] + [3000, 3000, 60]
    said = capsys.readouterr().err
    assert "3 frames to encode, 8 evaluations of the network" in said and "8.4 s if all" in said
    torch.manual_seed(0)  # the same forecasts as unwatched
    for one, count, seen in zip(made, (1, 3), found):
        assert torch.equal(one.futures(condition, count), seen)


def test_each_plan_brings_frames_to_encode(long, capsys, monkeypatch):
    work = Operations(100, 100, 1000, 10, aligned=2, nfe=1, future=2)
    monkeypatch.setattr(estimate, "operations", lambda *_: work)
    one = Forecaster(codec(conditioning="gt", align=(0,)), ToAligned())
    one.planner = Straight()
    past, poses, _ = clip_of()
    with announced([(one, 3)], 3, planned=True) as (watched,):
        futures = watched.planned(past, poses, watched.frames(past), 3)
    assert futures.shape == (1, 3, 2, 8, 8, 2)
    ((total, moves),) = long
    assert total == pytest.approx(1e-9 * sum(moves))
    assert moves == [100] * 3 + [200, 1000, 20] * 3
    assert "9 frames to encode, 3 evaluations" in capsys.readouterr().err


def test_a_stream_begins_its_bar_anew_for_each_frame_and_says_what_is_lost(long, capsys):
    one = live(Forecaster(codec(), ToNewest(), nfe=2), 3, 0.5)
    past, poses, trajectory = clip_of()
    for frame in past[0, :2]:
        latents = one.encode(frame[None])[None].expand(1, 3, 2, 8, 8)
        one.futures(one.condition(past, poses, trajectory, latents))
    ((total, moves),) = long
    assert total == pytest.approx(1e-9 * 2120)
    assert moves == [100, 1000, 1000, 20, "again", 100, 1000, 1000, 20]
    assert "2.1 s if all" in (said := capsys.readouterr().err)
    assert "frames come every 0.5 s, so most will be dropped" in said
    live(Forecaster(codec(), ToNewest(), nfe=2), 3, 60.0)
    assert "dropped" not in capsys.readouterr().err


def test_of_what_is_quick_nothing_is_said(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "operations", lambda *_: Operations(1, 1, 1, 1, 0, 1, 1))
    one = Forecaster(codec(), ToNewest())
    assert live(one, 3, 0.5) is one
    with announced([(one, 1)], 3) as (same,):
        assert same is one
    assert not capsys.readouterr().err

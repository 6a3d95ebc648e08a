"""The tools that run a forecaster, from the command line to the file, on a tiny model and world."""

import hashlib
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import build_network, build_vae
from occdistill.build.config import load_config
from occdistill.errors import UserError
from occdistill.runtime import bench_page
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.live import LiveRunner
from tests.tool import call

CONFIG = """
from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=3, future=4, crop=12.8, coarsen=2,
)
vae = dict(type=VAE, grid_shape=(32, 32, 8), channels=4, width=(16, 16), decoder_width=16)
light_decoder = dict(type=LightDecoder, width=(8, 16), blocks=(1, 1))
light_encoder = dict(type=LightEncoder, width=(8, 16), blocks=(1, 1))
network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 8, 8), past=3, future=4, align=1, trajectory=7, width=16,
)
light_network = dict(network, width=8)
light_network_checkpoint = {folder!r} + "/light_network.pth"
conditioning = dict(kind="gt", align=(0,))
guidance = 2.0
sampler = dict(steps=10, shift=3.0)
vae_checkpoint = {folder!r} + "/vae.pth"
teacher_checkpoint = {folder!r} + "/teacher.pth"
work_dir = {folder!r} + "/work"
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_world):
    """A folder with a config and untrained weights for it."""
    folder = tmp_path_factory.mktemp("tools")
    path = folder / "config.py"
    path.write_text(CONFIG.format(world=str(tiny_world), folder=str(folder)))
    config = load_config(path)
    torch.manual_seed(0)
    vae, network = build_vae(config, weights=False), build_network(config)
    for name, kind, net in (
        ("vae", "vae", vae),
        ("teacher", "teacher", network),
        ("student", "distill", network),
    ):
        state = {"kind": kind, "model": net.state_dict(), "config_text": "", "fingerprints": {}}
        checkpoints.save(folder / f"{name}.pth", {**state, "meta": {}})
    return folder


def test_benchmark_times_teacher_and_student_side_by_side(setup, monkeypatch, capsys):
    call(
        monkeypatch, "benchmark", setup / "config.py", setup / "student.pth", "--nfe", 2, 1,
        "--repeats", 2, "--warmup", 1, "--check", 2, "--device", "cpu",
    )  # fmt: skip
    result = json.loads((setup / "work" / "benchmark.json").read_text())
    rows = result["rows"]
    assert [(r["model"], r["nfe"], r["guidance"]) for r in rows[::3]] == [
        ("teacher", 2, 2.0), ("teacher", 1, 2.0), ("student", 1, None),
    ]  # fmt: skip
    assert [r["scope"] for r in rows[:3]] == ["end_to_end", "generate_decode", "generate"]
    for end_to_end, decode, generate in zip(rows[::3], rows[1::3], rows[2::3]):
        assert end_to_end["p50_ms"] > decode["p50_ms"] > generate["p50_ms"] > 0
    assert result["setting"]["grid"] == [32, 32, 8] and result["setting"]["tf32"] is False
    printed = capsys.readouterr().out
    assert "· tf32 False ·" in printed
    assert "| student@1 |" in printed
    assert "student@1, eager float32 against plain float32: 0.0" in printed
    assert set(result["agreement"]) == {"teacher@1", "student@1"}
    assert result["agreement"]["student@1"]["clips"] == 2
    assert result["agreement"]["student@1"]["differ"] < 1e-3  # random weights: some near ties


@pytest.mark.parametrize("source", ["replay", "lidar"])
def test_realtime_answers_every_frame_that_has_a_plan(setup, monkeypatch, capsys, source):
    call(
        monkeypatch, "realtime", setup / "config.py", setup / "student.pth", "--source", source,
        "--rate", 10, "--deadline", 60_000, "--queue", 100, "--device", "cpu",
        "--tensorboard", setup / "board",
    )  # fmt: skip
    report = json.loads((setup / "work" / "realtime.json").read_text())
    # one scene of 12 keyframes; the last 4 lack a plan, the first 2 fill the window
    assert report["frames"] == {
        "arrived": 8, "dropped": 0, "bad": 0, "filling": 2, "forecasts": 6, "waiting": 0,
    }  # fmt: skip
    assert report["missed"] == 0
    assert report["source"] == source and report["tf32"] is False and report["dtype"] == "float32"
    assert report["stages"]["total"]["count"] == 6
    assert "total" in capsys.readouterr().out
    assert list((setup / "board").glob("events*"))


def test_realtime_plans_by_itself_to_the_end_of_a_scene(tiny_world, tmp_path, monkeypatch):
    call(
        monkeypatch, "realtime", "configs/demo.py", "data/demo-weights/student.pth", "--plan",
        "--rate", 10, "--queue", 100, "--deadline", 60_000, "--device", "cpu", "--out", tmp_path,
        "--cfg-options", f"data.dataroot={tiny_world}",
    )  # fmt: skip
    report = json.loads((tmp_path / "realtime.json").read_text())
    assert report["conditioning"] == "pred"
    frames = report["frames"]  # of 12 keyframes; nobody is asked where the last ones lead
    assert (frames["arrived"], frames["bad"], frames["forecasts"]) == (12, 0, 9)


def test_realtime_says_where_there_is_no_planner(setup, monkeypatch):
    with pytest.raises(UserError, match="names no planner, or its models take no plan"):
        call(monkeypatch, "realtime", setup / "config.py", setup / "student.pth", "--plan")


def test_realtime_shows_a_history_model_the_true_next_step(setup, monkeypatch):
    text = (setup / "config.py").read_text().replace('kind="gt"', 'kind="hist+1"')
    path = setup / "history.py"
    path.write_text(text.replace("trajectory=7", "trajectory=3").replace("student", "history"))
    network = build_network(load_config(path))
    state = {"kind": "distill", "model": network.state_dict(), "config_text": "", "meta": {}}
    checkpoints.save(setup / "history.pth", {**state, "fingerprints": {}})
    call(
        monkeypatch, "realtime", path, setup / "history.pth", "--rate", 10, "--queue", 100,
        "--deadline", 60_000, "--device", "cpu", "--out", setup / "history",
    )  # fmt: skip
    frames = json.loads((setup / "history" / "realtime.json").read_text())["frames"]
    # of 12 keyframes the last has no next one, the first 2 fill the window
    assert (frames["arrived"], frames["bad"], frames["forecasts"]) == (11, 0, 9)


def test_realtime_skips_an_unreadable_frame(setup, tiny_world, tmp_path, monkeypatch):
    world = tmp_path / "world"
    shutil.copytree(tiny_world, world)
    config = load_config(setup / "config.py")
    from occdistill.data.scenes import load_index

    (scene,) = load_index(world, config.data.version, "val")
    (world / scene.keyframes[5].labels).write_bytes(b"half a file")
    call(
        monkeypatch, "realtime", setup / "config.py", setup / "student.pth", "--rate", 10,
        "--deadline", 60_000, "--queue", 100, "--device", "cpu", "--out", tmp_path,
        "--cfg-options", f"data.dataroot={world}",
    )  # fmt: skip
    report = json.loads((tmp_path / "realtime.json").read_text())
    assert report["frames"]["bad"] == 1 and report["frames"]["forecasts"] == 5
    assert "truncated" in report["bad_frames"][0]


@pytest.mark.parametrize(
    "fault, options, sentence",
    [
        ("bad", (), "8 of 8 frames were bad, most often so: .*truncated"),
        ("short", ("--frames", 2), "2 frames didn't fill the window"),
    ],
)
def test_realtime_without_a_forecast_is_no_success(
    setup, tiny_world, tmp_path, monkeypatch, fault, options, sentence
):
    world = tmp_path / "world"
    shutil.copytree(tiny_world, world, ignore=shutil.ignore_patterns("*.bin"))
    if fault == "bad":
        for path in world.glob("gts/*/*/labels.npz"):
            path.write_bytes(b"half a file")
    with pytest.raises(UserError, match=f"no forecast was made: {sentence}"):
        call(
            monkeypatch, "realtime", setup / "config.py", setup / "student.pth", "--rate", 10,
            "--deadline", 60_000, "--queue", 100, "--device", "cpu", "--out", tmp_path,
            "--cfg-options", f"data.dataroot={world}", *options,
        )  # fmt: skip
    frames = json.loads((tmp_path / "realtime.json").read_text())["frames"]
    assert frames["forecasts"] == 0 and frames[{"bad": "bad", "short": "filling"}[fault]] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_realtime_that_is_told_to_stop_leaves_its_report(setup, tmp_path, monkeypatch, number):
    step, before = LiveRunner.step, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def until_the_fifth(runner, *arrival):
        if runner.queue.arrived >= 5:
            signal.raise_signal(number)
        return step(runner, *arrival)

    monkeypatch.setattr(LiveRunner, "step", until_the_fifth)
    try:
        call(
            monkeypatch, "realtime", setup / "config.py", setup / "student.pth", "--rate", 10,
            "--deadline", 60_000, "--queue", 100, "--device", "cpu", "--out", tmp_path,
        )  # fmt: skip
    finally:
        for n, handler in zip((signal.SIGTERM, signal.SIGINT), before):
            signal.signal(n, handler)
    frames = json.loads((tmp_path / "realtime.json").read_text())["frames"]
    assert 1 <= frames["forecasts"] <= 5 and 5 <= frames["arrived"] <= 8


def test_visualize_draws_truth_and_models(setup, monkeypatch, capsys):
    out = setup / "clip.gif"
    call(
        monkeypatch, "visualize", setup / "config.py", setup / "student.pth", "--clip", 1,
        "--out", out, "--style", "bev", "--size", 96, 80, "--nfe", 2, 1, "--device", "cpu",
    )  # fmt: skip
    with Image.open(out) as gif:
        assert gif.n_frames == 3 + 4
        assert gif.size[0] == 2 * 80  # truth, two teachers, student: square maps without gutters
    assert "scene-" in capsys.readouterr().out


def test_visualize_encodes_the_past_once_for_all_rows(setup, monkeypatch):
    sizes, encode = [], Forecaster.encode
    monkeypatch.setattr(
        Forecaster, "encode", lambda self, x: sizes.append(len(x)) or encode(self, x)
    )
    call(
        monkeypatch, "visualize", setup / "config.py", setup / "student.pth", "--out",
        setup / "once.png", "--style", "bev", "--size", 96, 80, "--nfe", 2, 1, "--device", "cpu",
    )  # fmt: skip
    assert sizes == [1, 1, 1, 4]  # three past frames, and the newest from four future places


def test_visualize_draws_several_futures_and_says_how_far_they_agree(setup, monkeypatch):
    out = setup / "futures" / "clip.png"
    call(
        monkeypatch, "visualize", setup / "config.py", setup / "student.pth", "--samples", 3,
        "--out", out, "--style", "bev", "--size", 96, 80, "--nfe", "--device", "cpu",
    )  # fmt: skip
    assert Image.open(out).height > 6 * 80  # truth, three futures, and how far they agree
    saved = np.load(out.with_suffix(".npz"))
    assert saved["occupancy"].shape == saved["entropy"].shape == (4, 32, 32, 8)
    thirds = 3 * saved["occupancy"]
    assert np.allclose(thirds, thirds.round()) and 0 <= thirds.min() <= thirds.max() <= 3
    assert 0 <= saved["entropy"].min() <= saved["entropy"].max() <= np.log(3) + 1e-6


def test_wrong_command_lines_are_sentences(setup, monkeypatch):
    base = (setup / "config.py", setup / "student.pth")
    for tool, arguments, message in (
        ("visualize", (), "pass --out"),
        ("visualize", ("--clip", 999, "--out", "x.gif"), "no clip 999"),
        ("benchmark", ("--warmup", -1), "start at 0"),
        ("realtime", ("--source", "folder"), "--folder"),
        ("realtime", ("--rate", 0), "positive"),
        ("realtime", ("--scene", "scene-9999"), "no scene scene-9999"),
    ):
        with pytest.raises(UserError, match=message):
            call(monkeypatch, tool, *base, *arguments, "--device", "cpu")


@pytest.mark.parametrize(
    "tool, option",
    [
        ("test", "--nfe"), ("test", "--teacher-nfe"), ("test", "--batch-size"),
        ("visualize", "--nfe"), ("visualize", "--samples"), ("benchmark", "--nfe"),
        ("benchmark", "--student-nfe"), ("benchmark", "--repeats"), ("realtime", "--nfe"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["0", "-1", "1.5"])
def test_counts_start_at_one(tool, option, value, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tool, "config.py", "student.pth", option, value)
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()  # and no usage
    wrong = f"error: argument {option}: '{value}' is not a whole number from 1 on; "
    assert said.startswith(wrong)


def test_export_hands_a_forecaster_over(setup, tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'occdistill[onnx]'")
    base = (setup / "config.py", setup / "student.pth", "--out", tmp_path / "out", "--clips", 2)
    call(monkeypatch, "export", *base, "--limit", 1)  # random weights: some near ties
    assert "% of voxels differ" in capsys.readouterr().out
    names = ["decoder.onnx", "encoder.onnx", "flow.onnx", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"] == "student@1" and manifest["times"] == [0.0, 1.0]
    assert manifest["agreement"]["clips"] == 2 and manifest["agreement"]["limit"] == 0.01
    with pytest.raises(UserError, match="--limit is a share in percent"):
        call(monkeypatch, "export", *base, "--limit", 100)


@pytest.mark.slow
def test_export_hands_over_8_bit_files(setup, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'occdistill[onnx]'")
    base = (setup / "config.py", setup / "student.pth", "--out", tmp_path / "out", "--clips", 2)
    with pytest.raises(UserError, match="% differ from plain float32, more than 0.5 %, on 2 clips"):
        call(monkeypatch, "export", *base, "--dtype", "int8")  # random weights: some near ties
    assert list((tmp_path / "out").iterdir()) == []
    call(monkeypatch, "export", *base, "--dtype", "int8", "--limit", 20)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["calibrated_on"] == "4 clips of train"
    for name, about in manifest["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == about["sha256"]
        assert about["dtype"] == "int8" and b"DequantizeLinear" in content


def bench_rows(setup, monkeypatch, *options):
    out = setup / "bench"
    call(
        monkeypatch, "bench", setup / "config.py", "--device", "cpu", "--repeats", 2, "--out", out,
        *options,
    )  # fmt: skip
    return json.loads((out / "bench.json").read_text()), out


@pytest.mark.slow
def test_bench_writes_a_row_per_model_scope_and_backend(setup, monkeypatch, capsys):
    rows, out = bench_rows(setup, monkeypatch, "--quick", "--dtype", "float32")
    parts = ("decoder", "encoder", "network")
    lines = {(r["model"], r["nfe"], r["backend"], *(r[part] for part in parts)) for r in rows}
    plain = {("teacher", nfe, "plain", *["full"] * 3) for nfe in (10, 5, 2, 1)}
    plain |= {("student", 1, "plain", *["light"] * n, *["full"] * (3 - n)) for n in range(4)}
    assert plain | {("student", 1, "eager", *["full"] * 3)} <= lines
    assert len(rows) == 3 * len(lines)
    assert set(rows[0]) >= {
        "model", "nfe", "guidance", "scope", "backend", "dtype", "tf32", "size", "decoder", "encoder",
        "clips_per_s", "p50_ms", "p90_ms", "p99_ms", "peak_mb", "gflops", "ceiling_gflops",
    }  # fmt: skip
    assert (rows[0]["model"], rows[0]["nfe"], rows[0]["backend"]) == ("teacher", 10, "plain")
    assert all(r["p90_ms"] is r["p99_ms"] is None for r in rows)  # of two repeats
    evaluate = {
        r["network"]: r["gflop"] for r in rows if r["nfe"] == 1 and r["scope"] == "generate"
    }
    assert evaluate["light"] < 0.4 * evaluate["full"]
    full = [r for r in rows if r["decoder"] == "full"]
    work = {(r["model"], r["nfe"], r["scope"]): r["gflop"] for r in full}
    assert work["teacher", 10, "generate"] == pytest.approx(10 * work["teacher", 1, "generate"])
    assert work["teacher", 1, "generate"] == pytest.approx(
        2 * work["student", 1, "generate"], rel=0.01
    )  # guidance doubles the batch
    assert all(r["voxels_differ"] < 1e-3 for r in rows)
    assert all(r["voxels_differ"] == 0 for r in rows if r["backend"] == "plain")
    assert json.loads((out / "machine.json").read_text())["matmul_gflops"]["float32"] > 0
    assert "float32 | end_to_end |" in capsys.readouterr().out


def test_a_gain_is_fewer_operations_times_operations_a_second():
    def rows(model, p50, gflop, **more):
        head = dict(model=model, nfe=10, size="8x8x2", dtype="float32", backend="plain")
        parts = dict(decoder="full", encoder="full", network="full", tf32=False)
        head |= parts | dict(gflop=gflop, ceiling_gflops=100.0)
        head |= dict(p50_ms=p50, gflops=1e3 * gflop / p50, **more)
        return [{**head, "scope": scope} for scope in bench_page.SCOPES]

    text = bench_page.gains(
        rows("teacher", 1000.0, 40.0)
        + rows("student", 50.0, 4.0)
        + rows("student", 200.0, 4.0, dtype="bfloat16")
        + rows("student", 40.0, 4.0, tf32=True)
    )
    assert "| full | plain float32 with TF32 | end_to_end | 25.0× |" in text
    assert "| full | plain float32 | end_to_end | 20.0× | 10.0× | 2.00× | 8×, met |" in text
    assert "5.0× | 10.0× | 0.50× | 8×, missed: 4.0 GFLOP run at 20 %" in text
    assert "would give 25×" in text  # 4 GFLOP at 100 GFLOP/s are 40 ms


def line(**more):
    head = dict(
        model="student", nfe=1, size="8x8x2", dtype="float32", backend="plain", decoder="full",
        encoder="full", network="full", tf32=False, gflop=1.0, ceiling_gflops=1.0, p50_ms=10.0,
        gflops=1.0,
    )  # fmt: skip
    return [{**head, "scope": scope, **more} for scope in bench_page.SCOPES]


def test_what_evaluating_less_gives_stands_beside_what_the_rest_gives():
    light = dict.fromkeys(("decoder", "encoder", "network"), "light")
    rows = line(model="teacher", nfe=10, p50_ms=90.0, gflop=9.0)
    rows += line() + line(backend="eager", p50_ms=9.0) + line(backend="eager", p50_ms=1.9, **light)
    text = bench_page.gains(rows + line(dtype="bfloat16", p50_ms=1.5, **light))
    assert "| full | plain float32 | end_to_end | 9.0× | 9.0× | 1.00× | – (what evaluating" in text
    assert "| full | eager float32 | end_to_end | 10.0× |" in text
    all_light = "| light decoder, encoder and network |"
    assert f"{all_light} eager float32 | end_to_end | 47.4× | 9.0× | 5.26× | 45×, met |" in text
    assert f"{all_light} plain bfloat16 | end_to_end | 60.0× | 9.0× | 6.67× | 60×, met |" in text


@pytest.mark.parametrize("rate, verdict", [(19.96, "missed"), (20.0, "met")])
def test_bench_says_whether_lidar_is_merged_fast_enough(rate, verdict):
    machine = {
        "command": "bench", "device": "abacus", "date": "today", "torch": "2",
        "matmul_gflops": {"float32": 1.0}, "copy_gbytes_per_s": 1.0,
        "merge_keyframes_per_s": rate, "confusion_clips_per_s": 1.0,
    }  # fmt: skip
    text = bench_page.bench_table([], machine)
    assert f"keyframe: 20.0 a second and core (target 20, {verdict})" in text

"""The command lines on the embedded world, end to end, with untrained networks."""

import json

import pytest
import torch

from occdistill import checkpoint
from occdistill.build.builders import build_light, build_network, build_vae
from occdistill.build.config import load_config
from occdistill.data.clips import ClipDataset
from occdistill.errors import UserError
from occdistill.evaluation.protocols import PROTOCOLS
from tests.ranks import together
from tests.tool import call

CONFIG = """
from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=4, future=6, crop=12.8, coarsen=2,
)
vae = dict(type=VAE, grid_shape=(32, 32, 8), channels=8, width=(8, 8), blocks=(0, 0), decoder_width=8)
network = dict(
    type=SpaceTimeUNet, latent_shape=(8, 8, 8), past=4, future=6, align=1, trajectory=10, width=16,
    blocks=(1, 1),
)
conditioning = dict(kind="gt", align=(0,))
guidance = 2.0
sampler = dict(steps=10, shift=3.0)
vae_checkpoint = {folder!r} + "/vae.pth"
teacher_checkpoint = {folder!r} + "/teacher.pth"
light_decoder = dict(type=LightDecoder, width=(8, 8), blocks=(0, 1))
light_encoder = dict(type=LightEncoder, width=(8, 8), blocks=(0, 1))
light_checkpoint = {folder!r} + "/light.pth"
work_dir = {folder!r}
"""


@pytest.fixture(scope="module")
def setup(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    path = folder / "config.py"
    path.write_text(CONFIG.format(world=str(tiny_world), folder=str(folder)))
    config = load_config(path)
    torch.manual_seed(0)
    nets = {"vae": build_vae(config, weights=False), "teacher": build_network(config)}
    for kind, net in nets.items():
        state = {"kind": kind, "model": net.state_dict(), "fingerprints": {"data": "0123456789ab"}}
        checkpoint.save(folder / f"{kind}.pth", state)
    light = {"kind": "light", "model": build_light(config, nets["vae"], weights=False).state_dict()}
    light["fingerprints"] = {"vae": checkpoint.fingerprint(nets["vae"].state_dict())}
    checkpoint.save(folder / "light.pth", light)
    student = {"kind": "distill", "model": build_network(config).state_dict()}
    checkpoint.save(folder / "student.pth", student)
    return folder


@pytest.fixture(scope="module")
def tested(setup):
    """One run of tools/test.py with everything on."""
    with pytest.MonkeyPatch.context() as patch:
        call(
            patch, "test", setup / "config.py", setup / "student.pth", "--out", setup / "out",
            "--teacher-nfe", 2, 1, "--protocol", "occdistill", "dome", "come-visible",
            "--measure", "ray-iou", "ray-iou-entry", "consistency", "latent", "samples", "--samples", 2,
            "--repeats", 1, "--save-predictions", setup / "predictions", "--device", "cpu",
        )  # fmt: skip
    return json.loads((setup / "out" / "report.json").read_text())


def test_the_report_has_every_row_with_its_facts(tested):
    rows = [r for r in tested["rows"] if r["protocol"] == "occdistill"]
    assert [(r["model"], r["nfe"], r["guidance"], r["conditioning"]) for r in rows] == [
        ("teacher", 2, 2.0, "gt"),
        ("teacher", 1, 2.0, "gt"),
        ("student", 1, None, "gt"),
        ("copy-last", None, None, "none"),
        ("ego-warp", None, None, "gt"),
        ("ego-warp, objects carried", None, None, "gt"),
        ("ego-warp, extrapolated", None, None, "none"),
        ("ego-warp, extrapolated, objects carried", None, None, "none"),
        ("VAE ceiling", None, None, "truth"),
    ]
    every = {
        "model", "nfe", "guidance", "conditioning", "align", "carry", "clips", "checkpoint", "vae",
        "cache", "data", "dtype", "seed",
    }  # fmt: skip
    assert all(every <= row.keys() == rows[0].keys() for row in tested["rows"])
    *models, copy_last, _, carried, _, _, ceiling = rows
    assert [(r["cache"], r["align"], r["carry"]) for r in models] == [
        ("0123456789ab", [0], False), ("0123456789ab", [0], False), (None, [0], False),
    ]  # fmt: skip
    for row in (copy_last, carried):
        assert {row[k] for k in ("checkpoint", "vae", "cache", "dtype", "fps")} == {None}
    assert ceiling["checkpoint"] is None and ceiling["vae"] == rows[0]["vae"]
    teacher, student = rows[0], rows[2]
    assert len(teacher["checkpoint"]) == 12 and teacher["checkpoint"] != student["checkpoint"]
    assert teacher["vae"] == student["vae"] and teacher["dtype"] == "float32"
    assert set(student["fps"]) == {"end_to_end", "generate_decode", "generate"}
    assert set(student["measures"]) >= {
        "movable", "static", "ray_iou", "ray_iou_entry", "static_consistency", "latent", "samples",
    }  # fmt: skip
    assert {r["protocol"] for r in tested["rows"]} == {"occdistill", "dome", "come-visible"}
    assert tested["dataset"]["grid"]["shape"] == [32, 32, 8]


def test_a_history_model_is_compared_with_nothing_that_knows_the_future(setup, monkeypatch):
    call(
        monkeypatch, "test", setup / "config.py", "--out", setup / "hist", "--rows", "ego-warp",
        "ego-warp-carried", "ego-warp-extrapolated", "ego-warp-extrapolated-carried",
        "--limit-clips", 1, "--device", "cpu", "--cfg-options", "conditioning.kind=hist",
    )  # fmt: skip
    rows = json.loads((setup / "hist" / "report.json").read_text())["rows"]
    assert [(r["model"], r["conditioning"]) for r in rows] == [
        ("ego-warp, extrapolated", "none"),
        ("ego-warp, extrapolated, objects carried", "none"),
    ]


def test_light_parts_have_rows_beside_the_full_ones(setup, tested, monkeypatch):
    call(
        monkeypatch, "test", setup / "config.py", setup / "student.pth", "--out", setup / "light",
        "--rows", "student", "ceiling", "--decoder", "full", "light", "--encoder", "light",
        "--repeats", 1, "--limit-clips", 1, "--device", "cpu",
    )  # fmt: skip
    rows = json.loads((setup / "light" / "report.json").read_text())["rows"]
    assert [(r["model"], r["decoder"], r["encoder"]) for r in rows] == [
        ("student, light encoder", "full", "light"),
        ("student, light decoder, light encoder", "light", "light"),
        ("VAE ceiling", "full", "full"),
        ("VAE ceiling, light encoder", "full", "light"),
        ("VAE ceiling, light decoder, light encoder", "light", "light"),
    ]
    assert len({r["vae"] for r in rows}) == 1 and rows[1]["fps"]["end_to_end"] > 0
    assert len({r["mIoU"]["avg@all"] for r in rows[2:]}) == 3  # other parts, other voxels
    plain = {r["decoder"] for r in tested["rows"] if r["model"] in ("teacher", "VAE ceiling")}
    assert plain == {"full"}


def test_processes_together_report_what_one_does(setup, monkeypatch):
    def score(out, *more):
        call(
            monkeypatch, "test", setup / "config.py", setup / "student.pth", "--out", setup / out,
            "--rows", "student", "ego-warp", "ceiling", "--batch-size", 1, "--repeats", 0,
            "--measure", "consistency", "--device", "cpu", *more,
        )  # fmt: skip

    assert together(lambda: score("one"), ranks=1) == [0]
    assert together(lambda: score("two", "--launcher", "pytorch")) == [0, 0]
    one, two = (json.loads((setup / out / "report.json").read_text()) for out in ("one", "two"))
    assert one == two and one["rows"][0]["clips"] == 3


def test_saved_predictions_score_the_same_without_the_model(setup, tested, tiny_world, monkeypatch):
    call(
        monkeypatch, "score", setup / "predictions" / "student-1", "--dataset", tiny_world,
        "--version", "v1.0-synthetic", "--out", setup / "scored", "--copy-last",
        "--protocol", "occdistill", "dome",
    )  # fmt: skip
    scored = json.loads((setup / "scored" / "report.json").read_text())["rows"]
    for theirs in scored:
        (ours,) = [
            r
            for r in tested["rows"]
            if (r["model"], r["nfe"], r["protocol"])
            == (theirs["model"], theirs["nfe"], theirs["protocol"])
        ]
        for key in ("mIoU", "IoU", "per_class", "clips", "conditioning"):
            assert theirs[key] == ours[key]


def test_counts_are_scored_anew_and_compared(setup, tested, monkeypatch, capsys):
    call(
        monkeypatch, "score", setup / "out" / "counts", "--protocol", "uniscene-average",
        "--out", setup / "again",
    )  # fmt: skip
    again = json.loads((setup / "again" / "report.json").read_text())["rows"]
    student = next(r for r in again if r["model"] == "student")
    before = next(r for r in tested["rows"] if r["model"] == "student")
    assert student["mIoU"]["avg@all"] == pytest.approx(before["mIoU"]["avg@all"])
    report = setup / "out" / "report.json"
    call(monkeypatch, "compare", report, f"{report}:teacher@2", "--out", setup / "compare.json")
    assert "One scene says nothing about others" in capsys.readouterr().out
    assert json.loads((setup / "compare.json").read_text())[1]["name"].endswith("teacher@2")


def test_windows_on_the_embedded_world_are_the_protocols_own(tiny_world):
    data = ClipDataset(tiny_world, "v1.0-synthetic", "val", past=1)
    lengths = [len(scene.keyframes) for scene in data.scenes]
    counted = {name: p.count(lengths) for name, p in PROTOCOLS.items()}
    assert lengths == [12]
    assert counted == {
        "occdistill": 3, "occworld": 0, "occfm": 1, "dome": 1, "come-visible": 1, "i2world": 2,
        "geniedrive": 3, "uniscene-average": 5,
    }  # fmt: skip


def test_wrong_command_lines_are_sentences(setup, tiny_world, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown protocol 'kitti'; known: occdistill"):
        call(monkeypatch, "test", setup / "config.py", "--protocol", "kitti")
    with pytest.raises(UserError, match="needs --dataset"):
        call(monkeypatch, "score", tmp_path)
    with pytest.raises(UserError, match="no folder"):
        call(monkeypatch, "score", tmp_path / "nowhere", "--dataset", tiny_world)


def test_predictions_of_some_clips_are_scored_as_such(setup, tiny_world, monkeypatch, capsys):
    call(
        monkeypatch, "test", setup / "config.py", setup / "student.pth", "--out", setup / "some",
        "--rows", "student", "--limit-clips", 1, "--repeats", 0, "--device", "cpu",
        "--save-predictions", setup / "some-predictions",
    )  # fmt: skip
    (folder,) = (setup / "some-predictions").iterdir()
    given = (
        "score",
        folder,
        "--dataset",
        tiny_world,
        "--version",
        "v1.0-synthetic",
        "--out",
        folder,
    )
    with pytest.raises(UserError, match="--allow-missing scores those that are there"):
        call(monkeypatch, *given)
    call(monkeypatch, *given, "--allow-missing")
    row = json.loads((folder / "report.json").read_text())["rows"][0]
    first = json.loads((setup / "some" / "report.json").read_text())["rows"][0]
    assert (row["clips"], row["clips_expected"]) == (1, first["clips_expected"])
    assert row["mIoU"] == first["mIoU"] and "1 of " in capsys.readouterr().out

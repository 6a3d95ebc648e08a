"""`tools/import_occfm.py`, from a published file to weights that the configs load."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import build_teacher, build_vae
from occdistill.build.config import load_config
from occdistill.data.infos import build_infos
from occdistill.data.scenes import load_index
from occdistill.errors import UserError
from occdistill.store import read_npz
from tests.tool import call

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    """Call the tool's `main` with arguments."""
    return partial(call, monkeypatch, "import_occfm")


def test_imported_weights_are_the_files_and_fit_the_config(
    tool, tmp_path, future_file, future_transition, capsys
):
    out = tmp_path / "occfm_fut"
    tool("weights", future_file, "--out", out, "--variant", "occfm_fut")
    said = capsys.readouterr().out
    assert "occfm_fut: 607 tensors" in said and "ema, averaged over 5 updates" in said
    assert "12 of 81 offsets one too small" in said and "51 columns" in said

    places = {
        "vae_checkpoint": str(out / "vae.pth"),
        "teacher_checkpoint": str(out / "teacher.pth"),
    }
    config = load_config(ROOT / "configs/nus.py", places)
    vae, teacher = build_vae(config), build_teacher(config)
    own = future_transition.state_dict()
    assert torch.equal(teacher.state_dict()["out.weight"], own["out.weight"] + 1)
    assert teacher.history == 4

    saved = checkpoints.load(out / "teacher.pth", "teacher")
    assert saved["fingerprints"]["vae"] == checkpoints.fingerprint(vae.state_dict())
    assert saved["meta"]["source"] == future_file.name and saved["meta"]["weights"] == "ema"
    assert len(saved["meta"]["sha256"]) == 64

    with pytest.raises(UserError, match="exist already"):
        tool("weights", future_file, "--out", out)
    tool("weights", future_file, "--out", out, "--force", "--relative-index", "intended")
    again = build_vae(config).state_dict()
    key = "decoder.stages.0.blocks.0.attention.relative_index"
    assert int((again[key] != vae.state_dict()[key]).sum()) == 111


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--variant", "occfm_4c"], "holds occfm_fut, not occfm_4c"),
        (["--weights", "plain", "--variant", "vae"], "holds occfm_fut, not vae"),
    ],
)
def test_another_variant_is_refused_and_nothing_written(
    tool, tmp_path, future_file, arguments, sentence
):
    with pytest.raises(UserError, match=sentence):
        tool("weights", future_file, "--out", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_half_a_download_writes_nothing(tool, tmp_path, future_file):
    half = tmp_path / "half.ckpt"
    half.write_bytes(future_file.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="download it again"):
        tool("weights", half, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [half]


def test_a_report_writes_nothing(tool, tmp_path, future_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tool("weights", future_file, "--report")
    assert "607 tensors" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_failed_second_file_takes_the_first_back(tool, tmp_path, future_file, monkeypatch):
    save = checkpoints.save

    def fail_for_teacher(path, content):
        if path.name == "teacher.pth":
            raise UserError("disk full")
        save(path, content)

    monkeypatch.setattr(checkpoints, "save", fail_for_teacher)
    with pytest.raises(UserError, match="disk full"):
        tool("weights", future_file, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_latents(tool, tmp_path, capsys):
    frame = {
        "x_sampled": np.ones((1, 16, 50, 50), np.float32),
        "gt_path": [["data/nuscenes/gts/scene-0003/ab/labels.npz"]],
        "gt_trajs": np.zeros((1, 2), np.float32),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([frame] * 3))
    tool("latents", tmp_path / "a.pkl", "--out", tmp_path / "a.npz")
    assert "3 keyframes of 1 scenes, latents 16×50×50" in capsys.readouterr().out
    assert read_npz(tmp_path / "a.npz")["latents"].shape == (3, 16, 50, 50)


def test_infos_against_raw_tables(tool, tmp_path, tiny_world, capsys):
    ours = build_infos(load_index(tiny_world, "v1.0-synthetic", "val"))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"infos": ours}))
    where = ["--dataroot", tiny_world, "--version", "v1.0-synthetic", "--split", "val"]
    tool("infos", tmp_path / "a.pkl", "--out", tmp_path / "a.npz", *where)
    said = capsys.readouterr().out
    assert "12 keyframes in both, 0 missing" in said and "at most 0 m" in said
    assert "12 keyframes of 1 scenes" in said


class Runs:
    def __reduce__(self):
        return exec, ("open('TRACE', 'w')",)


@pytest.mark.parametrize("what", ["latents", "infos"])
def test_a_hostile_pickle_writes_nothing(tool, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(pickle.dumps({"infos": Runs()}))
    with pytest.raises(UserError, match="builtins.exec.* not read"):
        tool(what, "a.pkl", "--out", "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pkl"]

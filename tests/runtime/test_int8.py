"""8-bit networks: near to the plain ones, calibrated on training clips, or refused."""

import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch

from occdistill.autoencoder.vae import VAE
from occdistill.build.builders import build_dataset, clips_of
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import Grid
from occdistill.errors import UserError
from occdistill.evaluation.agreement import agreement
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.latents.codec import Codec
from occdistill.places import WEIGHTS
from occdistill.runtime import backends, int8
from occdistill.runtime.forecaster import Forecaster
from tests.runtime.fakes import drive
from tests.runtime.test_tools import setup  # noqa: F401

INT8 = dict(dtype=torch.int8, backend="onnx")


@pytest.fixture
def both(monkeypatch):
    """Forecasters, plain and as if by ONNX Runtime, of few layers, and six clips."""
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(8,), blocks=(0,), decoder_width=8)
    network = SpaceTimeUNet((4, 8, 8), 2, 2, align=1, trajectory=4, width=16, blocks=(1, 1))
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    codec = Codec(vae, Grid((16, 16, 4), 1.0, (-8.0, -8.0, 0.0)), future=2, align=(0,))
    poses, trajectory = torch.from_numpy(drive(4)).float(), torch.zeros(4, 2)
    monkeypatch.setattr(backends.onnx, "require", lambda device: None)
    plain, exact = (Forecaster(codec, network, backend=name) for name in ("plain", "onnx"))
    drawn = torch.randint(0, 18, (6, 2, 16, 16, 4)).to(torch.uint8)
    return plain, exact, [dict(past=x, poses=poses, trajectory=trajectory) for x in drawn]


def test_weights_of_7_bits_per_channel_forecast_nearly_as_the_plain_ones(installed, both):
    import onnx

    plain, exact, clips = both
    ours = int8.in_int8(plain, exact, clips[:2], clips[2:4], limit=0.2)
    assert (ours.backend, ours.dtype, exact.dtype) == ("onnx", torch.int8, torch.float32)
    past, poses, trajectory = (torch.stack([c[key] for c in clips[4:]]) for key in int8.KEYS)
    condition, noise = plain.condition(past, poses, trajectory), plain.noise(len(past))
    latents = plain.generate(condition, noise)
    for found, wanted in (
        (ours.encode(past[:, 0]), plain.encode(past[:, 0])),
        (ours.generate(condition, noise), latents),
    ):
        error = float((found - wanted).norm() / wanted.norm())
        assert 1e-4 < error < 0.1
    logits = plain.codec.vae.logits(latents.flatten(0, 1))
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    decided = first - second > 0.2 * logits.std()  # drawn networks have many near ties
    differ = ours.decode(latents) != plain.decode(latents)
    assert decided.float().mean() > 0.5
    assert differ.flatten(0, 1)[decided].float().mean() <= 0.005

    (package,) = backends.cache_folder().iterdir()
    with zipfile.ZipFile(package) as archive:
        assert sorted(archive.namelist()) == ["decoder", "encoder", "flow"]
        for name in archive.namelist():
            graph = onnx.load_from_string(archive.read(name)).graph
            arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
            read = [node.input for node in graph.node if node.op_type == "DequantizeLinear"]
            scales = {name: arrays[scale] for name, scale, *_ in read}
            weights = [name for name, x in arrays.items() if x.dtype == "int8" and x.ndim > 1]
            assert weights and all(abs(arrays[w].astype(int)).max() <= 64 for w in weights)
            assert all(1 < scales[w].size in arrays[w].shape for w in weights)


@pytest.fixture
def pretended(monkeypatch, tmp_path, both):
    """Files without content, whose share of changed voxels is what the list says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shares, asked = [], []
    monkeypatch.setattr(int8.onnx, "write", lambda stage, example, path: path.write_bytes(b"?"))
    monkeypatch.setattr(int8.onnx, "Session", lambda file, names: len)
    monkeypatch.setattr(int8, "quantise", lambda path, given, names: asked.append(len(given)))
    monkeypatch.setattr(int8, "disagreement", lambda *_: shares.pop(0))
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1"))
    return shares, asked


@pytest.mark.parametrize("shares", [[0.004, 0.0061], [0.0, float("nan")]])
def test_networks_that_change_too_many_voxels_are_refused(both, pretended, shares):
    plain, exact, clips = both
    pretended[0].extend(shares)
    said = f"{50 * sum(shares):.4f} % of the voxels differ .* more than 0.5 %, on 2 clips of the tr"
    with pytest.raises(UserError, match=said):
        int8.in_int8(plain, exact, clips[:3], clips[3:5])
    assert list(backends.cache_folder().iterdir()) == []


def test_a_single_clip_is_too_few(both):
    plain, exact, clips = both
    with pytest.raises(UserError, match="int8 takes two clips .* and there are 1; use --dtype"):
        int8.in_int8(plain, exact, clips[:1], [])


def test_files_are_made_once_for_the_same_clips_and_settings(both, pretended):
    plain, exact, clips = both
    shares, asked = pretended
    shares.extend([0.004, 0.006] * 3)  # 0.5 % on average: just what may be
    for _ in range(2):
        int8.in_int8(plain, exact, clips[:3], clips[3:5])
    # encoded: two past frames, and each as it looks from two future places; one evaluation
    assert asked == [3 * (2 + 2), 3, 3 * 2] and len(shares) == 4
    int8.in_int8(plain, exact, clips[1:3], clips[3:5])
    int8.in_int8(plain.with_nfe(2), exact, clips[:3], clips[3:5])
    assert asked[3:] == [8, 2, 4, 12, 6, 6] and not shares
    with backends.nothing_prepared(), pytest.raises(backends.NotReadyError):
        int8.in_int8(plain, exact, clips[:3], clips[3:4])


def test_it_is_calibrated_on_training_clips_alone(setup, monkeypatch):  # noqa: F811
    read, made, get = [], [], ClipDataset.__getitem__

    def watched(dataset, index):
        read.append(dataset.scenes[dataset.clips[index][0]].name)
        return get(dataset, index)

    def pretend(plain, exact, calibrate, check):
        made.append((plain.backend, exact.backend, plain.dtype, plain.nfe, calibrate, check))
        return exact

    monkeypatch.setattr(ClipDataset, "__getitem__", watched)
    monkeypatch.setattr(int8, "in_int8", pretend)
    monkeypatch.setattr(backends.onnx, "require", lambda device: None)
    config = load_config(setup / "config.py")
    models, student = Models(config), setup / "student.pth"
    for nfe in (1, 1, 2):
        assert models.forecaster(student, nfe, **INT8).nfe == nfe
    assert [one[:4] for one in made] == [("plain", "onnx", torch.float32, n) for n in (1, 2)]
    train, val = (build_dataset(config, split) for split in ("train", "val"))
    assert set(read) == {scene.name for scene in train.scenes}
    assert not set(read) & {scene.name for scene in val.scenes}
    *_, calibrate, check = made[0]
    assert len(calibrate) == len(check) == int8.CLIPS
    assert not any(torch.equal(a["past"], b["past"]) for a in calibrate for b in check)


@pytest.mark.parametrize("options", [dict(backend="auto"), dict(backend="onnx", device="cuda"), {}])
def test_other_ways_to_ask_for_it_are_refused(setup, options):  # noqa: F811
    with pytest.raises(UserError, match="run with --dtype int8 --backend onnx --device cpu"):
        models = Models(load_config(setup / "config.py"))
        models.forecaster(setup / "student.pth", dtype=torch.int8, **options)


@pytest.mark.slow
def test_the_shipped_weights_keep_995_of_1000_voxels(installed, tiny_world):
    config = load_config("configs/demo.py", {"data.dataroot": str(tiny_world)})
    models, student = Models(config), WEIGHTS / "student.pth"
    ours, plain = (models.forecaster(student, **o) for o in (INT8, dict(backend="plain")))
    assert 0 < agreement(plain, ours, clips_of(config, "val", 2)).differ <= 0.005

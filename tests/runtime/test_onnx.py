"""ONNX files of a forecaster: equal to the networks, and given to nobody unless they are."""

import copy
import hashlib
import importlib
import json

import numpy as np
import pytest
import torch

from occdistill.build.handover import hand_over
from occdistill.errors import UserError
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.latents.codec import Codec
from occdistill.runtime import backends, onnx
from occdistill.runtime.forecaster import Forecaster, disagreement

CPU = torch.device("cpu")


def test_without_the_packages_it_is_refused_in_a_sentence(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        UserError, match="needs onnx, which isn't here: pip install .*--backend eager"
    ):
        backends.check("onnx", CPU)


def test_what_it_cannot_do_is_refused(installed, monkeypatch):
    with pytest.raises(UserError, match="computes in float32 or int8: run with one of them"):
        backends.check("onnx", CPU, torch.bfloat16)
    with pytest.raises(UserError, match="can't use 'cuda': pip install onnxruntime-gpu"):
        onnx.require(torch.device("cuda"))


@pytest.mark.parametrize("family", ["small", "occfm"])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_it_forecasts_as_the_plain_networks(installed, small_networks, family, guidance):
    codec, network, clip = small_networks
    if family == "occfm":
        codec = Codec(codec.vae, codec.grid, future=2)
        network = OccFMTransition((4, 4, 4), 2, 2, trajectory_length=4, width=16)
    plain, ours = (
        Forecaster(codec, network, guidance=guidance, nfe=2, backend=b) for b in ("plain", "onnx")
    )
    two = [torch.cat([x, x.flip(1)]) for x in clip]
    assert disagreement(plain, ours, *two) <= 1e-4
    past, poses, trajectory = two
    condition, noise = plain.condition(past, poses, trajectory), plain.noise(2)
    found, wanted = (f.generate(condition, noise) for f in (ours, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_files_are_written_once_and_found_by_the_next_process(
    installed, small_networks, monkeypatch
):
    codec, network, clip = small_networks
    written, write = [], onnx.write

    def watched(*arguments):
        written.append(type(arguments[0]).__name__)
        write(*arguments)

    monkeypatch.setattr(onnx, "write", watched)
    for _ in range(2):
        Forecaster(codec, network, backend="onnx")(*clip[:2])
    assert sorted(written) == ["Decode", "Encode", "Velocity"]


def test_whoever_follows_the_manifest_gets_the_forecast(installed, handed, tmp_path):
    import onnxruntime

    plain, items = handed
    found = hand_over(plain, items, tmp_path / "out", 1e-3, {"model": "student@2"})
    assert found.clips == 2 and found.differ <= 1e-3
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert said["agreement"]["differ"] == found.differ and said["model"] == "student@2"
    run = {}
    for name, about in said["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == about["sha256"]
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        run[name[:-5]] = lambda s=session, a=about, **given: s.run([a["output"]], given)[0]

    past, poses, trajectory = (items[0][k][None] for k in ("past", "poses", "trajectory"))
    encode = run["encoder"]
    c = plain.condition(past, poses, trajectory)
    frames = np.concatenate([encode(voxels=frame[None].numpy()) for frame in past[0]])[None]
    np.testing.assert_allclose(frames, c.past, rtol=1e-3, atol=1e-4)
    noise = plain.noise(1, torch.Generator().manual_seed(3))
    x = said["temperature"] * noise.numpy()
    known = dict(past=frames, aligned=c.aligned.numpy(), trajectory=c.trajectory.numpy())
    for t, r in zip(said["times"], said["times"][1:]):
        x = x + np.float32(r - t) * run["flow"](x=x, t=np.array([t], np.float32), **known)
    classes = np.concatenate([run["decoder"](latents=frame[None]) for frame in x[0]])
    expected = plain.decode(plain.generate(c, noise))[0].numpy()
    assert (classes != expected).mean() <= 1e-3


def test_files_that_forecast_something_else_are_kept_back(installed, handed, tmp_path, monkeypatch):
    plain, items = handed
    write = onnx.write

    def drifted(stage, example, path):
        if path.stem == "decoder":
            stage = copy.deepcopy(stage)
            for parameter in stage.parameters():
                parameter.data *= 1.2
        write(stage, example, path)

    monkeypatch.setattr(onnx, "write", drifted)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"not handed over: .* % differ .* more than 0.1 %, on 2"):
        hand_over(plain, items, out, 1e-3, {})
    assert list(out.iterdir()) == []
    assert hand_over(plain, items, out, 0.999, {}).differ > 1e-3  # who allows it gets them
    assert len(list(out.iterdir())) == 4

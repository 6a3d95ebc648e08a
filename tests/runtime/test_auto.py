"""What is chosen where nobody says: by a clock that the tests set."""

import pytest
import torch

from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.runtime import auto, backends, roofline
from tests.build.test_lineup import folder  # noqa: F401

FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    "device, rates, best",
    [
        ("cpu", {FLOAT: 178, BRAIN: 419}, BRAIN),  # an AMD EPYC
        ("cpu", {FLOAT: 336, BRAIN: 168}, FLOAT),  # an Intel Xeon
        ("cpu", {FLOAT: 100, BRAIN: 109}, FLOAT),  # not worth its rounding
        ("cuda", {FLOAT: 50, BRAIN: 700, HALF: 710}, HALF),
    ],
)
def test_the_precision_of_the_fastest_products(monkeypatch, device, rates, best):
    monkeypatch.setattr(roofline, "products", lambda device, dtype, *_, **__: rates[dtype])
    value, why = auto.dtype(device)
    assert value is best and f"float32 {rates[FLOAT]}" in why


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds of each back end, and what is ready."""
    ms, ready = {"plain": 9.0, "eager": 7.0, "aot": 3.0, "onnx": 5.0}, {"plain", "eager"}

    def times(forecasters, *clip, repeats, warmup):
        for name in forecasters:
            if name not in ready:
                raise backends.NotReadyError(name)
        return {name: {"end_to_end": {"p50_ms": ms[name]}} for name in forecasters}

    monkeypatch.setattr(auto, "side_by_side", times)
    monkeypatch.setattr(backends, "check", lambda *_: None)
    return ms, ready


def chosen(folder, **options):  # noqa: F811
    models = Models(load_config(folder / "config.py"))
    return models.forecaster(folder / "student.pth", backend="auto", **options)


def test_the_fastest_of_what_is_ready(clock, folder, capsys):  # noqa: F811
    ms, ready = clock
    assert chosen(folder).backend == "eager"
    assert "backend auto: eager (ms a forecast: eager 7.0, plain 9.0)" in capsys.readouterr().out
    ready.add("aot")
    assert chosen(folder).backend == "aot"
    ready.add("onnx"), ms.update(onnx=2.0)
    assert chosen(folder).backend == "onnx"
    ms.update(eager=1001.0)  # longer than the measurement
    assert chosen(folder).backend == "eager"
    assert "takes 1.0 s, too long" in capsys.readouterr().out


def test_a_line_up_chooses_once_and_for_all(clock, folder, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(roofline, "products", lambda device, dtype, *_, **__: dtype.itemsize)
    models = Models(load_config(folder / "config.py"))
    both = dict(dtype="auto", backend="auto")
    found = [models.forecaster(folder / "student.pth", nfe=n, **both) for n in (1, 2)]
    found.append(models.forecaster(None, 1, 2.0, decoder="light", **both))
    assert {(f.backend, f.dtype) for f in found} == {("eager", torch.float32)}
    assert capsys.readouterr().out.count("auto") == 2


def test_nothing_is_prepared_for_a_trial(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make(stage, example, path):
        made.append(path.name)
        path.write_bytes(b"kernels")

    package = backends.Packages(torch.nn.Linear(1, 1), ".pt2", make, lambda path: len)
    example = (torch.zeros(1),)
    with backends.nothing_prepared(), pytest.raises(backends.NotReadyError):
        package(example)
    assert not made and package(example) is len and len(made) == 1
    with backends.nothing_prepared():
        assert package(example) is len  # it lies in the cache now

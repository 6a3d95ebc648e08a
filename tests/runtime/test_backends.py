import pytest
import torch
from torch import nn

from occdistill.errors import UserError
from occdistill.flow.guidance import Guided
from occdistill.runtime import backends
from occdistill.runtime.forecaster import Forecaster, disagreement
from occdistill.runtime.stages import Encode, Velocity, lowered
from tests.runtime.fakes import ToNewest, codec

CPU = torch.device("cpu")
# random weights make many near ties, which rounding decides
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "occdistill" / "aot"


def encode(network, scale=2.0, dtype=torch.float32):
    return Encode(network, scale, dtype, CPU)


def test_what_cannot_run_here_is_refused(monkeypatch):
    with pytest.raises(UserError, match="tpu"):
        Forecaster(codec(), ToNewest(), backend="tpu")
    with pytest.raises(UserError, match="cuda-graphs back end needs a GPU"):
        Forecaster(codec(), ToNewest(), backend="cuda-graphs")
    monkeypatch.setattr("shutil.which", lambda name: None)
    for backend in ("compile", "aot"):
        with pytest.raises(UserError, match=r"apt-get install g\+\+"):
            Forecaster(codec(), ToNewest(), backend=backend)


def test_a_function_is_prepared_once_per_shape_and_type_of_contiguous_tensors():
    prepared = []

    def prepare(example):
        prepared.append(backends.signature(example))
        assert all(x is None or x.is_contiguous() for x in example)
        return lambda a, b: a + 1

    function = backends.PerShape(prepare)
    a = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        assert torch.equal(function(a.T, None), a.T + 1)
    function(a, None)
    function(a, a)
    function(a.int(), None)
    assert len(prepared) == len(set(prepared)) == 4


def test_lower_precision_is_autocast_with_the_casts_done_before():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.SiLU(), nn.Linear(16, 4))
    x = torch.randn(3, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(x).float()
    with torch.no_grad():
        assert torch.equal(encode(network, 1.0, torch.bfloat16)(x), expected)
    assert network[0].weight.dtype == torch.float32  # the lender's own network stays as it was
    copy = lowered(network, torch.bfloat16)
    assert copy[0].weight.dtype == torch.bfloat16 and copy[1].weight.dtype == torch.float32


def test_a_package_belongs_to_weights_and_settings():
    def identity(weight=1.0, scale=2.0, guidance=1.5):
        network = nn.Linear(2, 2)
        nn.init.constant_(network.weight, weight)
        nn.init.zeros_(network.bias)
        stages = encode(network, scale), Velocity(Guided(network, guidance), torch.float32, CPU)
        return tuple(backends.Packages(stage, "", None, None).identity for stage in stages)

    assert identity() == identity()
    assert identity(weight=1.5)[0] != identity()[0] and identity(weight=1.5)[1] != identity()[1]
    assert identity(scale=3.0)[0] != identity()[0]
    assert identity(guidance=2.0)[1] != identity()[1]


def test_a_cache_that_others_may_write_to_is_refused(own_cache):
    assert backends.cache_folder() == own_cache
    assert own_cache.stat().st_mode & 0o777 == 0o700
    own_cache.chmod(0o777)
    with pytest.raises(UserError, match="others may write"):
        backends.cache_folder()


@pytest.mark.slow
def test_a_package_is_made_once_loaded_after_and_remade_when_damaged(own_cache, monkeypatch):
    stage, x = encode(nn.Linear(4, 4)), torch.randn(2, 4)
    compile_ = torch._inductor.aoti_compile_and_package
    made = []
    monkeypatch.setattr(
        "torch._inductor.aoti_compile_and_package",
        lambda *args, **kwargs: made.append(1) or compile_(*args, **kwargs),
    )

    def run():
        with torch.no_grad():
            return backends.build("aot", stage)(x)

    with torch.no_grad():
        expected = stage(x)
    torch.testing.assert_close(run(), expected)
    torch.testing.assert_close(run(), expected)
    assert len(made) == 1
    (package,) = own_cache.glob("*.pt2")
    package.write_bytes(b"half a file")
    torch.testing.assert_close(run(), expected)
    assert len(made) == 2 and len(list(own_cache.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["compile", "aot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_networks_forecast_the_same(small_networks, backend, dtype):
    codec, network, clip = small_networks
    plain, other = (
        Forecaster(codec, network, guidance=2.0, nfe=2, dtype=dtype, backend=b)
        for b in ("plain", backend)
    )
    assert disagreement(plain, other, *clip) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_networks_forecast_the_same(small_networks, dtype):
    codec, network, clip = small_networks
    plain, eager = (
        Forecaster(codec, network, guidance=2.0, nfe=2, dtype=dtype, backend=b)
        for b in ("plain", "eager")
    )
    assert disagreement(plain, eager, *clip) <= TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recorded_networks_forecast_the_same_and_results_are_kept(small_networks):
    codec, network, clip = small_networks
    plain, recorded = (
        Forecaster(codec, network, guidance=2.0, nfe=2, device="cuda", backend=b)
        for b in ("plain", "cuda-graphs")
    )
    assert disagreement(plain, recorded, *clip) <= 1e-3
    first = recorded.encode(clip[0][0])
    kept = first.clone()
    recorded.encode(clip[0][0].flip(1))
    assert torch.equal(first, kept)


def test_what_a_graph_keeps_may_be_written_to_outside_inference_mode():
    with torch.inference_mode():
        example = (torch.ones(2), None)
        held = backends.own(example)
    held[0].copy_(torch.full((2,), 3.0))
    assert held == [held[0], None] and example[0].tolist() == [1, 1]
    with torch.inference_mode():
        held[0].copy_(example[0])
    assert held[0].tolist() == [1, 1]

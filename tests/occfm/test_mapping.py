"""Our names and OccFM's: the same tensors, none lost, none invented, bit for bit."""

import hashlib
import json

import pytest
import torch

from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.occfm.checkpoints import Variant
from occdistill.occfm.mapping import TRANSITION, from_published, layout, to_published, translate

# name: (channels, trajectory, frames), number of keys, digest of the manifest's sorted rows
# (key, shape, dtype)
MODELS = {
    "occfm": ((16, 6, None), 607, "ccb093b1302d78a6"),
    "occfm_fut": ((16, 12, None), 607, "bccbe44dfdafb5f9"),
    "occfm_4c": ((4, 6, None), 607, "b5498b05f3f5341f"),
    "occfm_8c": ((8, 6, None), 607, "78abe4e852516224"),
    "occfm_64c": ((64, 6, None), 607, "d43101a9cfffdb8c"),
    "vae": ((16, None, None), 403, "392d4527b01986ff"),
    "vae3d": ((16, None, 6), 451, "6b9b321018d982f0"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """Name and networks of a published model."""
    channels, trajectory, frames = MODELS[request.param][0]
    networks = Variant(channels, trajectory, frames).networks()
    return request.param, [net for net in networks if net is not None]


def digest(table) -> str:
    rows = sorted((key, list(shape), str(dtype)[6:]) for key, (shape, dtype) in table.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_layout_is_the_published_one(model):
    name, networks = model
    table = layout(*networks)
    assert len(table) == MODELS[name][1]
    assert digest(table) == MODELS[name][2]


def test_layout_equals_the_manifest(model, manifests):
    name, networks = model
    file = {"occfm_fut": "transition_fut", "vae": "vae", "vae3d": "vae3d"}.get(name, "transition")
    wanted = json.loads((manifests / f"manifest_{file}.json").read_text())["keys"]
    variants = json.loads((manifests / "manifest_variants.json").read_text())["variants"]
    wanted.update(variants.get(name, {}))
    assert {k: [list(s), str(d)[6:]] for k, (s, d) in layout(*networks).items()} == wanted


def test_round_trip_is_bit_exact(model):
    networks = model[1]
    generator = torch.Generator().manual_seed(0)
    published = {}
    for key, (shape, dtype) in layout(*networks).items():
        bits = torch.randint(0, 2**30, shape, dtype=torch.int32, generator=generator)
        published[key] = bits.view(torch.float32) if dtype == torch.float32 else bits.to(dtype)
    for net in networks:
        net.load_state_dict(from_published(net, published))
    again = to_published(*networks)
    assert again.keys() == published.keys()
    for key, value in published.items():
        assert again[key].shape == value.shape and again[key].dtype == value.dtype
        pair = (again[key], value)
        if value.dtype == torch.float32:
            pair = (tensor.contiguous().view(torch.int32) for tensor in pair)
        assert torch.equal(*pair)


def test_second_clock_has_no_place_in_the_published_layout_and_survives_loading():
    shape = dict(latent_shape=(4, 4, 4), width=16)
    net = OccFMTransition(**shape, two_time=True)
    assert layout(net).keys() == layout(OccFMTransition(**shape)).keys()
    state = from_published(net, to_published(OccFMTransition(**shape)))
    assert torch.equal(state["end_clock.0.weight"], net.end_clock[0].weight)
    net.load_state_dict(state)


def test_an_unknown_key_is_an_error():
    with pytest.raises(KeyError):
        translate("door.weight", TRANSITION)

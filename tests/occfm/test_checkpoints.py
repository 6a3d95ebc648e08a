"""Published checkpoints: found out, checked, translated; anything wrong said in one sentence."""

import os

import pytest
import torch

from occdistill.autoencoder.occfm import OccFMVAE, averaged_relative_index, relative_index
from occdistill.errors import UserError
from occdistill.flow.networks.occfm import position_table
from occdistill.occfm.checkpoints import Variant, find_quirks, read
from occdistill.occfm.mapping import to_published
from tests.occfm.published import published_file


@pytest.mark.parametrize(
    "variant, name",
    [
        (Variant(16, 6), "occfm"),
        (Variant(16, 12), "occfm_fut"),
        (Variant(4, 6), "occfm_4c"),
        (Variant(64, 6), "occfm_64c"),
        (Variant(16), "vae"),
        (Variant(16, frames=6), "vae3d"),
    ],
)
def test_a_variant_is_read_off_its_tensors(variant, name):
    tensors = to_published(*filter(None, variant.networks()))
    assert variant.name == name
    assert Variant.of(tensors) == variant


def test_a_world_model_gives_its_averaged_weights(future_file, vae, future_transition):
    found = read(future_file)
    assert (found.variant.name, found.weights, found.epoch) == ("occfm_fut", "ema", 199)
    assert found.averaged == 5
    assert "optimizer_states" in found.holds
    state = found.state(future_transition)
    assert torch.equal(state["enter.bias"], future_transition.state_dict()["enter.bias"] + 1)
    index = found.state(vae)["encoder.stages.0.blocks.1.attention.relative_index"]
    assert torch.equal(index, averaged_relative_index())
    assert "altered in 16 of 16 Swin blocks, in 16 of them as averaging" in found.quirks[0]
    assert "51 columns for a map of 50" in found.quirks[1]


def test_plain_weights_on_request(future_file, vae, future_transition):
    found = read(future_file, "plain")
    assert found.weights == "plain" and found.averaged is None
    state = found.state(future_transition)
    assert all(torch.equal(state[k], v) for k, v in future_transition.state_dict().items())
    assert found.quirks == ["position table laid out on 51 columns for a map of 50"]
    assert found.provenance()["source"] == future_file.name


def test_an_autoencoder_gives_its_plain_weights(tmp_path, vae):
    found = read(published_file(tmp_path / "vae.ckpt", vae, averaged=False))
    assert (found.variant.name, found.weights, found.quirks) == ("vae", "plain", [])


def test_a_bare_state_dict_will_do(tmp_path, vae):
    torch.save(to_published(vae), tmp_path / "vae.pth")
    assert read(tmp_path / "vae.pth").variant.name == "vae"


def test_quirks_of_unusual_tables():
    index = relative_index()
    other = index.clone()
    other[0, 0] = 3
    sentences = find_quirks(
        {"a.relative_position_index": other, "b.relative_position_index": index}
    )
    assert "altered in 1 of 2 Swin blocks, not in the way" in sentences[0]
    straight = position_table(50, 50, 128, columns=50)[None]
    assert "50 columns" in find_quirks({"transition_model.pos_embed": straight})[0]
    assert "unlike any" in find_quirks({"transition_model.pos_embed": straight + 1})[0]


def refused(path, sentence, weights="auto"):
    with pytest.raises(UserError, match=sentence) as caught:
        read(path, weights)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    refused(tmp_path / "a.ckpt", "no checkpoint at")


def test_half_a_download(tmp_path, future_file):
    path = tmp_path / "a.ckpt"
    whole = future_file.read_bytes()
    for size in (100, len(whole) // 2):
        path.write_bytes(whole[:size])
        refused(path, "cut off or damaged .*: download it again")


def test_wrong_files(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"<html>sign in</html>")
    refused(path, "is a web page")
    torch.save([1, 2], path)
    refused(path, "holds a list, not a checkpoint")
    torch.save({"epoch": 3}, path)
    refused(path, "holds epoch and no state_dict")
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    refused(path, "2 tensors that are not OccFM's")


def test_missing_average(tmp_path, vae):
    path = published_file(tmp_path / "vae.ckpt", vae, averaged=False)
    refused(path, "no averaged weights .*--weights plain", "ema")


class Runs:
    def __reduce__(self):
        return os.system, ("touch TRACE",)


def test_hostile_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "epoch": Runs()}, "a.ckpt")
    refused(tmp_path / "a.ckpt", "system.* may be hostile and is not read")
    assert not (tmp_path / "TRACE").exists()


@pytest.fixture
def small_sets(tmp_path, vae):
    """A function that writes a file of changed autoencoder weights."""

    def write(**changes):
        tensors = dict(to_published(vae))
        for key, value in changes.items():
            key = key.replace("__", ".")
            if value is None:
                del tensors[key]
            else:
                tensors[key] = value
        torch.save({"state_dict": tensors}, tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    return write


def test_a_missing_an_extra_and_a_misshapen_tensor(small_sets):
    refused(small_sets(encoder__conv_out__bias=None), "looks like vae .*no encoder.conv_out.bias")
    refused(small_sets(door=torch.zeros(2)), "unexpected door")
    refused(small_sets(encoder__conv_out__bias=torch.zeros(3)), r"bias is \(3,\), not \(32,\)")


def test_values_that_cannot_be(small_sets):
    refused(small_sets(encoder__conv_out__bias=torch.full((32,), torch.nan)), "infinities or NaN")
    integers = torch.zeros(32, dtype=torch.int64)
    refused(small_sets(encoder__conv_out__bias=integers), "torch.int64, not torch.float32")


def test_half_precision_weights_become_float32(small_sets, vae):
    half = vae.encoder.out.bias.detach().half()
    found = read(small_sets(encoder__conv_out__bias=half))
    assert found.tensors["encoder.conv_out.bias"].dtype == torch.float32


def test_other_variant_does_not_load(tmp_path, vae):
    from occdistill.checkpoint import load_weights

    other = OccFMVAE(channels=4)
    with pytest.raises(UserError, match="another architecture"):
        load_weights(other, vae.state_dict(), "vae.pth")

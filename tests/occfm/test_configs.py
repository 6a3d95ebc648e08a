"""The nuScenes configs build OccFM's networks, and say what is missing."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from occdistill.build.builders import (
    build_aligner,
    build_codec,
    build_light,
    build_network,
    build_teacher,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.errors import UserError
from occdistill.occfm.mapping import layout
from occdistill.runtime.roofline import work_of

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "name, length, kind, class_",
    [
        ("nus", 12, "gt", "gt"),
        ("nus_hist", 6, "hist+1", "hist+1"),
        ("nus_vae", 12, "gt", "gt"),
        ("nus_teacher", 12, "gt", "gt"),
    ],
)
def test_networks_are_occfms(name, length, kind, class_):
    config = load_config(CONFIGS / f"{name}.py")
    vae, network = build_vae(config, weights=False), build_network(config)
    table = layout(vae, network)
    assert len(table) == 607
    assert table["transition_model.traj_encoder.0.weight"][0] == (128, 32 * length)
    assert (network.past, network.history, network.future) == (6, 4, 6)
    codec = build_codec(config, vae)
    assert codec.grid.shape == vae.grid_shape == (200, 200, 16)
    assert (codec.conditioning, codec.conditioning_class, codec.align) == (kind, class_, ())
    shown = codec.visible_trajectory(torch.zeros(1, 12, 2), 6)
    assert shown.shape[1] == length


def test_the_aligned_config_is_occfms_model_and_a_convolution():
    config, plain = (load_config(CONFIGS / f"{name}.py") for name in ("nus_aligned", "nus"))
    network, without = build_network(config), build_network(plain)
    more = network.state_dict().keys() - without.state_dict().keys()
    assert more == {"aligned_in.weight", "aligned_in.bias"}
    assert not network.aligned_in.weight.any() and not network.aligned_in.bias.any()
    vae = build_vae(config, weights=False)
    codec = build_codec(config, vae, build_aligner(config, vae, build_light(config, vae, False)))
    assert (codec.align, codec.carry, codec.aligned_by) == ((0,), True, "light")
    assert network.takes["aligned"] == len(codec.align)
    with FakeTensorMode(allow_non_fake_inputs=True):
        frames = torch.zeros(6, 200, 200, 16, dtype=torch.uint8)
        light = work_of(lambda: codec.aligner.encode(frames)).flops
        maps = torch.zeros(6, 16, 50, 50)
        enters = work_of(lambda: network.aligned_in(maps)).flops
    assert (light / 1e9, enters / 1e9) == (
        pytest.approx(40.4, abs=0.1),
        pytest.approx(1.5, abs=0.05),
    )


@pytest.mark.parametrize("name, variant", [("nus", "occfm_fut"), ("nus_hist", "occfm")])
def test_missing_weights_name_the_import_command(name, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIGS / f"{name}.py")
    for build in (build_vae, build_teacher):
        with pytest.raises(
            UserError, match=f"import_occfm.py weights FILE.ckpt --variant {variant}`"
        ):
            build(config)

"""The tools that show what a config is and what its data looks like."""

import numpy as np
import pytest
from PIL import Image

from occdistill.build.config import load_config
from occdistill.distill import methods
from occdistill.errors import UserError
from occdistill.training.distill import load_with_method, method_name
from tests.tool import TOOLS, call

DEMO = "configs/demo.py"


def test_a_printed_config_is_the_config(monkeypatch, capsys, tmp_path):
    options = ("--cfg-options", "data.stride=3", "conditioning.align=(0,1)")
    call(monkeypatch, "print_config", DEMO, *options)
    printed = tmp_path / "printed.py"
    printed.write_text(capsys.readouterr().out)
    again = load_config(printed)
    whole = load_config(DEMO, {"data.stride": 3, "conditioning.align": (0, 1)})
    assert again.data == whole.data and again.data.stride == 3 and again.data.past == 4
    assert tuple(again.conditioning.align) == (0, 1) and again.sampler == whole.sampler
    assert again.train_distill == whole.train_distill


def test_a_wrong_option_is_refused_as_any_tool_would(monkeypatch):
    with pytest.raises(UserError, match="data.past is 'four'; it should be a valid integer"):
        call(monkeypatch, "print_config", DEMO, "--cfg-options", "data.past=four")


@pytest.mark.parametrize("align, lines", [((0, 1), 4), ((), 2)])
def test_clips_are_drawn_with_their_conditions(
    monkeypatch, capsys, tmp_path, tiny_world, align, lines
):
    options = [f"data.dataroot={tiny_world}", f"conditioning.align={align}".replace(" ", "")]
    if not align:
        options.append("conditioning.carry=False")
    call(
        monkeypatch, "browse_dataset", DEMO, "--out", tmp_path, "--count", 2, "--size", 120,
        "--cfg-options", *options,
    )  # fmt: skip
    said = capsys.readouterr().out
    pictures = sorted(tmp_path.glob("*.png"))
    assert [p.name[:5] for p in pictures] == ["00000", "00002"]  # of the split's three clips
    assert all(f"{p}: conditioning gt, 10 steps" in said for p in pictures)
    first, second = (np.asarray(Image.open(p).convert("RGB")) for p in pictures)
    panel = 120 + 20  # its caption
    assert first.shape[1] == 6 * 120 and lines * panel < first.shape[0] < (lines + 1) * panel
    assert (first[:panel, 4 * 120 :] == 255).all()  # four past frames in a line of six
    assert first.shape != second.shape or (first != second).any()


def test_no_such_clip(monkeypatch, tmp_path, tiny_world):
    options = ("--out", tmp_path, "--cfg-options", f"data.dataroot={tiny_world}")
    with pytest.raises(UserError, match="no clip 3; the split has clips 0 to 2"):
        call(monkeypatch, "browse_dataset", DEMO, "--clip", 0, 3, *options)
    assert not list(tmp_path.iterdir())


def test_methods_are_listed_and_chosen_by_name(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "train_distill", "--list-methods", description="Distil", part="distill")
    listed = capsys.readouterr().out
    assert "| MFD | mfd.py | 10 updates |" in listed and listed.count("\n|") == len(methods()) + 1
    for name in ("alphaflow", "Alpha_Flow"):
        config = load_with_method(DEMO, name, {"method.alpha": 0.5})
        assert config.method.alpha == 0.5 and method_name(config) == "AlphaFlow"
        assert "ode_step" not in config.method
    assert load_with_method(DEMO, "mfd").method.ratio == load_config(DEMO).method.ratio
    with pytest.raises(UserError, match="no method alphaflo; did you mean AlphaFlow"):
        load_with_method(DEMO, "alphaflo")
    with pytest.raises(UserError, match="unknown key method.ratio"):
        load_with_method(DEMO, "alphaflow", {"method.ratio": 3})


def test_tools_parse_call_and_print():
    lines = {path.name: len(path.read_text().splitlines()) for path in TOOLS.glob("*.py")}
    assert max(lines.values()) <= 125 and sum(lines.values()) <= 1730, lines

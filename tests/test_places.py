"""Where relative paths count from."""

import pytest

from occdistill import places
from occdistill.build.config import load_config


def test_a_path_counts_from_the_file_that_says_it_or_from_above(tmp_path):
    config = tmp_path / "project" / "configs" / "mine.py"
    weights = tmp_path / "project" / "weights" / "vae.pth"
    for path in (config, weights):
        path.parent.mkdir(parents=True)
        path.touch()
    assert places.named("weights/vae.pth", config) == weights
    nearer = config.with_name("weights") / "vae.pth"
    nearer.parent.mkdir()
    nearer.touch()
    assert places.named("weights/vae.pth", config) == nearer
    assert places.named(weights, nearer) == weights
    assert places.named("weights/none.pth", config).as_posix() == "weights/none.pth"


def test_what_comes_along_is_found_last(tmp_path):
    shipped = "data/demo-weights/vae.pth"
    assert places.named(shipped, tmp_path / "mine.py") == places.ROOT / shipped
    mine = tmp_path / shipped
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert places.named(shipped, tmp_path / "mine.py") == mine


def test_a_config_finds_its_weights_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/demo.py")  # the one that comes along
    assert config.vae_checkpoint == str(places.WEIGHTS / "vae.pth")
    # what isn't there yet, and what the command line says, count from where one is
    assert load_config("configs/nus.py").vae_checkpoint == "data/occfm/occfm_fut/vae.pth"
    given = load_config("configs/demo.py", {"vae_checkpoint": "data/demo-weights/light.pth"})
    assert given.vae_checkpoint == "data/demo-weights/light.pth"
    monkeypatch.chdir(places.ROOT)
    assert load_config("configs/demo.py").vae_checkpoint == "data/demo-weights/vae.pth"


def test_the_current_folder_is_for_what_is_typed_not_for_what_a_config_says(monkeypatch, tmp_path):
    shipped = "data/demo-weights/vae.pth"
    monkeypatch.chdir(tmp_path)
    assert places.typed(shipped) == places.ROOT / shipped
    other = tmp_path / shipped
    other.parent.mkdir(parents=True)
    other.touch()
    assert load_config("configs/demo.py").vae_checkpoint == str(places.ROOT / shipped)
    assert places.typed(shipped).resolve() == other


@pytest.mark.parametrize("name", ["train-mfd", "doctor", "make-world"])
def test_scripts_are_subcommands(name):
    assert places.tools()[name] == places.TOOLS / f"{name.replace('-', '_')}.py"

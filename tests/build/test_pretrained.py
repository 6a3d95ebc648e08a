"""A checkpoint is read, never run: what its config may say."""

import pytest

from occdistill import Forecaster, UserError, places
from occdistill import checkpoint as checkpoints


@pytest.fixture
def altered(tmp_path):
    """Writes the shipped student with another config."""

    def write(change, name="student.pth"):
        state = checkpoints.load(places.WEIGHTS / "student.pth")
        state["config_text"] = change(state["config_text"])
        checkpoints.save(tmp_path / name, state)
        return tmp_path / name

    return write


def test_weights_are_found_from_what_comes_along_and_beside_the_checkpoint_first(altered):
    path = altered(lambda text: text)
    assert Forecaster.from_pretrained(path).nfe == 1  # data/demo-weights/vae.pth of the package
    beside = path.with_name("vae.pth")
    beside.write_bytes(b"no zip")
    with pytest.raises(UserError, match=f"{beside} is .*damaged"):
        Forecaster.from_pretrained(path)


def test_weights_of_another_autoencoder_are_refused(altered):
    path = altered(lambda text: text)
    vae = checkpoints.load(places.WEIGHTS / "vae.pth")
    vae["model"] = {k: v + 1 if v.is_floating_point() else v for k, v in vae["model"].items()}
    checkpoints.save(path.with_name("vae.pth"), vae)
    with pytest.raises(UserError, match="was trained on the latents of VAE"):
        Forecaster.from_pretrained(path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("guidance = 2.0", "guidance = __import__('os').getpid()", "more than plain values"),
        ("guidance = 2.0", "import os", "more than plain values"),
        ("guidance = 2.0", "guidance = [i for i in (1,)]", "more than plain values"),
        ("guidance = 2.0", "guidance = dict(**globals())", "more than plain values"),
        ("occdistill.autoencoder.vae.VAE", "subprocess.Popen", "no class of occdistill"),
        (
            "occdistill.autoencoder.vae.VAE",
            "occdistill.visualization.open3d_scene.subprocess.Popen",
            "no class of occdistill",
        ),
        ("width=48", "widht=48", "did you mean network.width"),
        ("network = dict(", "net = dict(", "doesn't hold its config"),
    ],
)
def test_nothing_in_a_config_is_run(altered, old, new, message):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    with pytest.raises(UserError, match=message):
        Forecaster.from_pretrained(altered(change))


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="'dmeo' is no checkpoint, .* known: 'demo'"):
        Forecaster.from_pretrained("dmeo")
    with pytest.raises(UserError, match=r"holds neither student.pth nor teacher.pth"):
        Forecaster.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a vae, not a teacher or a distilled student"):
        Forecaster.from_pretrained(places.WEIGHTS / "vae.pth")

"""Files laid out as OccFM's authors lay them out, filled by the rule."""

import os
from pathlib import Path

import numpy as np
import pytest

from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.occfm.golden import fill
from tests.occfm.published import published_file

GOLDEN = Path(__file__).with_name("golden_seed0.npz")


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """The original networks' outputs under the rule's weights, seed 0."""
    with np.load(GOLDEN) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="session")
def manifests() -> Path:
    """Folder of the manifests made from the original networks, which don't come along."""
    folder = os.environ.get("OCCDISTILL_OCCFM")
    if not folder:
        pytest.skip("OCCDISTILL_OCCFM names no folder with OccFM's manifests")
    return Path(folder)


@pytest.fixture(scope="session")
def vae() -> OccFMVAE:
    """The full-size autoencoder under the rule, seed 0. Not to be changed."""
    return fill(OccFMVAE(), 0).requires_grad_(False)


@pytest.fixture(scope="session")
def transition() -> OccFMTransition:
    """The full-size history network under the rule, seed 0. Not to be changed."""
    return fill(OccFMTransition(), 0).requires_grad_(False)


@pytest.fixture(scope="session")
def future_transition() -> OccFMTransition:
    """The full-size network with the future trajectory under the rule. Not to be changed."""
    return fill(OccFMTransition(trajectory_length=12), 0).requires_grad_(False)


@pytest.fixture(scope="session")
def future_file(tmp_path_factory, vae, future_transition) -> Path:
    """A published checkpoint of the model with the future trajectory."""
    folder = tmp_path_factory.mktemp("published")
    return published_file(folder / "epoch=000196.ckpt", vae, future_transition)

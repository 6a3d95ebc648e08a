"""Shared fixtures, and the markers' rules."""

import os
from pathlib import Path

import pytest
import torch

# Two test processes on two cores must not start two times two threads.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config, items):
    no_slow = pytest.mark.skip(reason="slow: run with --slow")
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(no_slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A small embedded world: three training scenes and one validation scene of 12 keyframes."""
    from occdistill.data.synthetic import make_world

    out = tmp_path_factory.mktemp("world")
    make_world(out, scenes=3, val_scenes=1, seed=7, keyframes=12, workers=1)
    return out

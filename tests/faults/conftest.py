"""A whole data set for every fault to be planted in."""

import pytest

from tests.data.conftest import write


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return write(tmp_path / "world").root

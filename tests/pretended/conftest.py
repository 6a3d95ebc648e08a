from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from tests.pretended.device import Waits, pretended, why_not


@dataclass
class Gpu:
    """A GPU to test on.

    Attributes:
        waits: what the host would have waited for; None on a real one.
    """

    waits: Waits | None = None

    @contextmanager
    def nothing_waits(self):
        """Inside, the host may not wait for the GPU."""
        if self.waits is not None:
            self.waits.clear()
            yield
            assert not self.waits
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """Each test twice: on the pretended GPU where there is no CUDA, on a real one where there is."""
    if request.param == "pretended":
        if reason := why_not():
            pytest.skip(reason)
        with pretended() as waits:
            yield Gpu(waits)
    else:
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield Gpu()

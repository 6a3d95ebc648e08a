"""A CUDA device that isn't there, for a PyTorch without CUDA: `device.cpp`, and `torch.cuda`.

It has CUDA's rules and the CPU's numbers. What it can't show: CUDA's kernels and their rounding,
streams that run beside each other, and how long anything takes.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import occdistill
from occdistill.runtime.backends import cache_folder
from occdistill.store import atomic

SOURCE = Path(__file__).with_name("device.cpp")
HOUSE = Path(occdistill.__file__).parent
NAME = "a pretended GPU"
_Told = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def why_not() -> str | None:
    """What keeps the device from being built here; None if nothing does."""
    if torch.backends.cuda.is_built():
        return "this PyTorch has a CUDA of its own"
    return None if shutil.which("g++") else "a pretended CUDA device is built with g++"


@cache
def library() -> ctypes.CDLL:
    """The device, loaded; built once for this source and this PyTorch (a quarter of a minute)."""
    made_of = SOURCE.read_bytes() + f"{torch.__version__} {sys.version}".encode()
    built = cache_folder() / f"pretended-{hashlib.sha256(made_of).hexdigest()[:24]}.so"
    if not built.exists():
        home = Path(torch.__file__).parent
        headers = [f"-I{home / 'include' / below}" for below in ("", "torch/csrc/api/include")]
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        options = ["-shared", "-fPIC", "-std=c++20", "-O0", abi, *headers]
        with atomic(built) as part:
            command = ["g++", SOURCE, *options, f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"]
            command += ["-o", part]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
    return ctypes.CDLL(str(built))


class Waits(Counter):
    """How often the host would have waited for the GPU, by what made it and where.

    Keys are `(what, "folder/file.py:function")`, of the house's innermost function; what is defined
    inside a function counts for it.
    """

    def __call__(self, what: bytes | str) -> None:
        """Count one, of whoever calls."""
        frame, place = sys._getframe(1), "elsewhere"
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(str(HOUSE)):
                file = Path(code.co_filename).relative_to(HOUSE).as_posix()
                place = f"{file}:{code.co_qualname.partition('.<locals>')[0]}"
                break
            frame = frame.f_back
        self[what if isinstance(what, str) else what.decode(), place] += 1

    @property
    def places(self) -> set[str]:
        """Where the host waited."""
        return {place for _, place in self}


class Graph:
    """A CUDA graph: operations that are done again on the tensors of their recording."""

    def __init__(self) -> None:
        self.operations: list[tuple] = []
        self.inference = False

    def replay(self) -> None:
        """Do them again, in the mode of the recording: nobody asks a real graph in which it is."""
        with torch.inference_mode(self.inference), torch.no_grad():
            for operation, given, options, made in self.operations:
                again = tree_leaves(operation(*given, **options))
                for old, new in zip(tree_leaves(made), again):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recording(TorchDispatchMode):
    """Inside, operations go into a graph, and nothing may wait.

    Args:
        graph: where they go.
        waits: what waits.
    """

    def __init__(self, graph: Graph, waits: Waits) -> None:
        super().__init__()
        self.graph, self.waits = graph, waits

    def __enter__(self):
        self.before, self.graph.inference = self.waits.total(), torch.is_inference_mode_enabled()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.waits.total() > self.before:
            raise RuntimeError(f"operation not permitted when stream is capturing: {self.waits}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.graph.operations.append((func, args, kwargs or {}, made))
        return made


class Stream:
    """A stream; there is one queue, the host's."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        """It is done already."""


class Event:
    """A point in time; nothing runs beside the host, so the host's clock tells it."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self, stream: object = None) -> None:
        """Now."""
        self.time = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds."""
        return 1e3 * (other.time - self.time)


@contextmanager
def pretended() -> Iterator[Waits]:
    """Inside, there is a GPU, `cuda:0`; gives what the host would have waited for."""
    waits, of_the_device = Waits(), library()
    told = _Told(waits)
    cudnn = torch.backends.cudnn.enabled
    with pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        for name, value in {
            "is_available": True,
            "is_initialized": True,
            "is_bf16_supported": True,
            "is_current_stream_capturing": False,
            "device_count": 1,
            "current_device": 0,
            "current_stream": Stream(),
            "stream": nullcontext(),
            "device": nullcontext(),
            "get_device_name": NAME,
            "get_device_capability": (9, 0),
            "max_memory_allocated": 0,
            "reset_peak_memory_stats": None,
            "manual_seed_all": None,
            "set_device": None,
            "_lazy_init": None,
        }.items():
            patch.setattr(torch.cuda, name, lambda *a, value=value, **k: value)
        patch.setattr(torch.cuda, "synchronize", lambda *a: waits("synchronize"))
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph", lambda graph: Recording(graph, waits))
        patch.setattr(torch.Tensor, "pin_memory", lambda x, *a: torch.ops.pretended.pin(x))
        patch.setattr(torch.Tensor, "is_pinned", lambda x, *a: torch.ops.pretended.is_pinned(x))
        patch.setattr(torch.UntypedStorage, "clone", _clone)
        torch.backends.cudnn.enabled = False  # it is asked for its version, which only CUDA knows
        of_the_device.tell_to(told)
        of_the_device.appear(True)
        try:
            yield waits
        finally:
            of_the_device.appear(False)
            of_the_device.tell_to(None)
            torch.backends.cudnn.enabled = cudnn


def _clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    held = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return held.set_(storage).clone().untyped_storage()


COLLECTIVES = ("all_reduce", "broadcast", "reduce", "all_gather", "gather", "scatter")


@contextmanager
def one_of_two() -> Iterator[None]:
    """Inside, this process is the first of two under NCCL, which takes the GPU's tensors alone.

    The other one is never heard of: what is gathered or reduced stays as it was.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def refusing(name: str):
        collective = getattr(dist, name)

        def checked(*given, **options):
            for x in tree_leaves((given, options)):
                if isinstance(x, torch.Tensor) and not x.is_cuda:
                    raise RuntimeError(f"No backend type associated with device type cpu: {name}")
            return collective(*given, **options)

        return checked

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    with pytest.MonkeyPatch.context() as inside:
        for name in COLLECTIVES:
            inside.setattr(dist, name, refusing(name))
        inside.setattr(dist, "get_backend", lambda group=None: dist.Backend.NCCL)
        try:
            yield
        finally:
            dist.destroy_process_group()

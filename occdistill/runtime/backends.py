"""Ways to run a stage of a forecast, behind one name.

    plain         the networks as they are written down: what the others are compared with
    eager         the same numbers to rounding, sooner: with the layers of `frozen` and `shortcuts`
    compile       kernels fused by torch.compile, anew in every process: a minute or so
    cuda-graphs   eager, recorded once per shape and replayed without launch costs; GPUs only
    aot           kernels fused ahead of time by torch.export and AOTInductor, once per shape; the
                  next process finds them in the user's cache and loads them in milliseconds
    onnx          ONNX Runtime, in float32, and in 8-bit integers (`int8`); its files are kept in the
                  user's cache too

On 2 cores compile and aot run at the same speed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

import occdistill
from occdistill.autoencoder.sparse import SparseEncoder
from occdistill.checkpoint import fingerprint
from occdistill.errors import UserError, out_of_memory
from occdistill.runtime import onnx
from occdistill.runtime.machine import device_name, tf32
from occdistill.runtime.stages import Stage
from occdistill.store import atomic, user_cache

_may_prepare = ContextVar("_may_prepare", default=True)
BACKENDS = ("plain", "eager", "compile", "cuda-graphs", "aot", "onnx")
AS_WRITTEN = ("plain", "onnx")  # those that take the layers as they are written
Function = Callable[..., Tensor]


def check(backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Refuse a back end that can't run here.

    Raises:
        UserError: unknown name, no GPU, no compiler, no ONNX Runtime, or not in this precision.
    """
    if backend not in BACKENDS:
        raise UserError(f"no back end named {backend!r}; choose one of {', '.join(BACKENDS)}")
    if dtype == torch.int8:
        raise UserError(
            "int8 is for the onnx back end on a CPU, calibrated on training clips: run with --dtype"
            " int8 --backend onnx --device cpu, or take Forecaster.from_pretrained"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no GPU for device {str(device)!r}; run with --device cpu")
    if backend == "cuda-graphs" and device.type != "cuda":
        raise UserError(
            f"the cuda-graphs back end needs a GPU, not {str(device)!r}: run with --device cuda,"
            " or --backend eager"
        )
    if backend == "onnx":
        onnx.require(device)
        if dtype != torch.float32:
            raise UserError(
                "the onnx back end computes in float32 or int8: run with one of them as --dtype, or"
                " with --backend eager"
            )
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    needs_compiler = backend == "aot" or (backend == "compile" and device.type == "cpu")
    if needs_compiler and not any(map(shutil.which, names)):
        raise UserError(
            f"the {backend} back end needs a C++ compiler: apt-get install g++, or --backend eager"
        )


def runs(backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether `check` has nothing against it."""
    try:
        check(backend, device, dtype)
    except UserError:
        return False
    return True


def build(backend: str, stage: Stage, allow_tf32: bool = False) -> Function:
    """The stage as `backend` runs it; sparse convolutions, with as much to do as there are voxels,
    run as they are on all of them. On a GPU, `allow_tf32` holds while it runs, and only then.
    """
    function = _built(backend, stage)
    if stage.device_type != "cuda":
        return function

    def in_precision(*tensors: Tensor | None) -> Tensor:
        with tf32(allow_tf32):
            return function(*tensors)

    return in_precision


def _built(backend: str, stage: Stage) -> Function:
    if is_sparse(stage):
        return stage
    if backend == "compile":
        # one entry per stage and shape, of which a session has a few dozen
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
        return torch.compile(stage, dynamic=False)
    if backend == "cuda-graphs":
        return PerShape(partial(record, stage))
    if backend == "aot":
        return PerShape(Packages(stage, ".pt2", compiled, loaded))
    if backend == "onnx":
        load = partial(onnx.Session, names=onnx.arguments(stage), device=stage.device_type)
        return by_row(PerShape(Packages(stage, ".onnx", onnx.write, load)))
    return stage


def is_sparse(stage: Stage) -> bool:
    """Whether sparse convolutions are in it."""
    return any(isinstance(module, SparseEncoder) for module in stage.modules())


def loaded(path: str) -> Function:
    """What a package of kernels holds."""
    return torch._inductor.aoti_load_package(path)


def by_row(function: Function) -> Function:
    """A function of batches, of one that takes a row at a time."""

    def run(*tensors: Tensor | None) -> Tensor:
        count = len(tensors[0])
        columns = [[None] * count if x is None else x.split(1) for x in tensors]
        return torch.cat([function(*row) for row in zip(*columns)])

    return run


def compiled(stage: Stage, example: tuple[Tensor | None, ...], path: Path) -> None:
    """Write a stage's package of kernels for such arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(stage, example)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


class NotReadyError(Exception):
    """A back end would first have to prepare something that takes long."""


@contextmanager
def nothing_prepared() -> Iterator[None]:
    """Inside, what isn't in the user's cache is a `NotReadyError`."""
    token = _may_prepare.set(False)
    try:
        yield
    finally:
        _may_prepare.reset(token)


class PerShape:
    """A function that is prepared once per shape of its arguments.

    Args:
        prepare: makes a function of contiguous tensors, given an example of them.
    """

    def __init__(self, prepare: Callable[[tuple], Function]) -> None:
        self.prepare = prepare
        self.prepared: dict[tuple, Function] = {}

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        """The result for such tensors, prepared now if it wasn't."""
        tensors = tuple(None if x is None else x.contiguous() for x in tensors)
        key = signature(tensors)
        if key not in self.prepared:
            self.prepared[key] = self.prepare(tensors)
        return self.prepared[key](*tensors)


def signature(tensors: tuple[Tensor | None, ...]) -> tuple:
    """What a prepared function depends on."""
    return tuple(None if x is None else (tuple(x.shape), str(x.dtype)) for x in tensors)


def _device(tensors: tuple[Tensor | None, ...]) -> torch.device:
    return next(x.device for x in tensors if x is not None)


def record(stage: Stage, example: tuple[Tensor | None, ...]) -> Function:
    """A CUDA graph of the stage. Inputs are copied in; the result is a copy of its own."""
    held = own(example)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(_device(example))
    try:
        with torch.cuda.device(_device(example)):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # allocations and choices of kernels come before recording
                    stage(*held)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                result = stage(*held)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"{type(stage.network).__name__} can't be recorded as a CUDA graph"
            f" ({str(error).splitlines()[0]}): use --backend compile"
        ) from error

    def replay(*tensors: Tensor | None) -> Tensor:
        for x, value in zip(held, tensors):
            if x is not None:
                x.copy_(value)
        graph.replay()
        return result.clone()

    return replay


def own(example: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Copies that may be written to later, also where they are made in inference mode."""
    with torch.inference_mode(False):
        return [None if x is None else torch.empty_like(x).copy_(x) for x in example]


class Packages:
    """Prepared forms of a stage in the user's cache folder.

    A package is code, so only files that this user's own account made are loaded. Its name tells
    what it was made from: weights, settings, shapes, source, PyTorch and machine.

    Args:
        stage: is prepared.
        suffix: of a file.
        make: writes one, of the stage, an example of its arguments and the path.
        load: gives the function that a file holds, of its path.
    """

    def __init__(
        self,
        stage: Stage,
        suffix: str,
        make: Callable[[Stage, tuple, Path], None],
        load: Callable[[str], Function],
    ) -> None:
        self.stage, self.suffix, self.make, self.load = stage, suffix, make, load

    def __call__(self, example: tuple[Tensor | None, ...]) -> Function:
        """Load the package for such arguments, or make it first."""
        where = device_name(_device(example))
        rounding = torch.backends.cuda.matmul.allow_tf32
        facts = (self.identity, signature(example), where, torch.__version__, rounding)
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
        path = cache_folder() / f"{type(self.stage).__name__.lower()}-{digest}{self.suffix}"
        if path.exists():
            try:
                return self.load(str(path))
            except Exception as error:  # noqa: BLE001 - whatever a damaged file makes the loader do
                logging.getLogger(__name__).warning("%s is damaged, made anew: %s", path, error)
        if not _may_prepare.get():
            raise NotReadyError(path.name)
        advice = "free some space, or use --backend eager"
        with atomic(path, advice=advice) as part:
            self.make(self.stage, example, part)
        return self.load(str(path))

    @cached_property
    def identity(self) -> tuple:
        """Weights, settings and source code of the stage and of every module in it."""
        modules = dict(self.stage.named_modules())
        settings = [
            (name, type(module).__qualname__, sorted(filter(_is_setting, vars(module).items())))
            for name, module in modules.items()
        ]
        tensors = {**dict(self.stage.named_parameters()), **dict(self.stage.named_buffers())}
        homes = {sys.modules[type(module).__module__] for module in modules.values()}
        files = frozenset(filter(None, (getattr(home, "__file__", None) for home in homes)))
        return repr(settings), fingerprint(tensors), source(files)


def _is_setting(item: tuple[str, object]) -> bool:
    value = item[1]
    if isinstance(value, tuple | list):
        return all(_is_setting(("", x)) for x in value)
    return value is None or isinstance(value, int | float | str | torch.dtype)


@cache
def source(files: frozenset[str]) -> str:
    """Digest of `files` and this package's: what a layer was doesn't run once it has changed."""
    digest = hashlib.sha256()
    own = Path(occdistill.__file__).parent.rglob("*.py")
    for path in sorted({*map(Path, files), *own}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where packages lie: `~/.cache/occdistill/aot`, made if need be.

    Raises:
        UserError: it can't be made, or somebody else may write to it.
    """
    home = user_cache()
    if home is None:
        raise UserError(
            "there is no home folder for compiled networks: set XDG_CACHE_HOME, or use --backend"
            " eager"
        )
    folder = home / "aot"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.stat()
    except OSError as error:
        raise UserError(
            f"can't use {folder} for compiled networks ({error.strerror}): set XDG_CACHE_HOME, or"
            " use --backend eager"
        ) from error
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise UserError(
            f"others may write to {folder}, and what lies there is run as code: chmod 700 it, or"
            " delete it"
        )
    return folder

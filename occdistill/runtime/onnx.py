"""Stages of a forecast as ONNX files, and ONNX Runtime as what runs them.

A file holds a stage as `plain` has it, in float32, for one row of its batch: one frame to encode or
decode, one clip to evaluate; `int8` makes one of 8-bit integers of it. Its inputs have the names of the stage's arguments, its output is
`result`. ONNX Runtime takes the fastest of its providers that the device and the installed package
offer; inputs and results pass through the computer's memory.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from occdistill.errors import UserError
from occdistill.runtime.stages import Stage

OPSET = 18
RESULT = "result"
PROVIDERS = {
    "cuda": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}


def require(device: torch.device) -> None:
    """See that ONNX Runtime is there, for this device.

    Raises:
        UserError: it isn't, or its package knows nothing of the device.
    """
    install = "pip install 'occdistill[onnx]', or use --backend eager"
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"the onnx back end needs {name}, which isn't here: {install}"
            ) from error
    if not set(PROVIDERS.get(device.type, ())) & set(module.get_available_providers()):
        raise UserError(
            f"the installed ONNX Runtime can't use {str(device)!r}: pip install onnxruntime-gpu, or"
            " use --device cpu or --backend eager"
        )


def arguments(stage: Stage) -> tuple[str, ...]:
    """Names of what a stage takes."""
    return tuple(inspect.signature(stage.run).parameters)


def write(stage: Stage, example: tuple[Tensor | None, ...], path: str | Path) -> None:
    """Write a stage's file.

    Args:
        stage: in float32.
        example: of its arguments, one row each; it will take those that aren't None.
        path: the file.

    Raises:
        UserError: the network holds what ONNX has no word for.
    """
    named = dict(zip(arguments(stage), example))
    given = {name: x for name, x in named.items() if x is not None}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
    function = _Given(stage, [x is not None for x in example])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                function, tuple(given.values()), str(path), input_names=list(given),
                output_names=[RESULT], opset_version=OPSET, dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        name = type(stage.network).__name__
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"{name} can't be written as ONNX ({reason[:200]}): use --backend eager"
        ) from error


class _Given(nn.Module):
    """A stage as a function of those of its arguments that are given."""

    def __init__(self, stage: Stage, given: list[bool]) -> None:
        super().__init__()
        self.stage, self.given = stage, given

    def forward(self, *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return self.stage(*(next(rest) if given else None for given in self.given))


class Session:
    """A stage's file as a function of one row of its arguments.

    Args:
        file: its path, or what it holds.
        names: of the stage's arguments, in order; those that the file has no use for are ignored.
        device: where it runs.

    Attributes:
        takes: shape and type of a row's inputs, by name.
    """

    def __init__(
        self,
        file: str | Path | bytes,
        names: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> None:
        import onnxruntime

        device, options = torch.device(device), onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        there = onnxruntime.get_available_providers()
        wanted = (*PROVIDERS[device.type], *PROVIDERS["cpu"])
        chosen = [name for name in dict.fromkeys(wanted) if name in there]
        self.session = onnxruntime.InferenceSession(file, options, providers=chosen)
        self.names = names
        self.takes = {one.name: (one.shape, one.type) for one in self.session.get_inputs()}

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        """The stage's result."""
        named = {name: x for name, x in zip(self.names, tensors) if name in self.takes}
        inputs = {name: x.detach().cpu().contiguous().numpy() for name, x in named.items()}
        return torch.from_numpy(self.session.run([RESULT], inputs)[0]).to(tensors[0].device)

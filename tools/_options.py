"""The options that tools share."""

import argparse
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from occdistill.build.config import load_config
from occdistill.build.models import DECODERS, ENCODERS, NETWORKS
from occdistill.build.options import Options, out_folder  # noqa: F401
from occdistill.errors import Parser
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.views import VIEWS
from occdistill.processes import LAUNCHERS
from occdistill.runtime.auto import AUTO
from occdistill.runtime.forecaster import BACKENDS

DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"  # of the onnx back end alone


def parser(description: str) -> Parser:
    """A parser whose help says what the tool's docstring says first."""
    raw = argparse.RawDescriptionHelpFormatter
    return Parser(description=description.splitlines()[0], formatter_class=raw)


def positive(text: str) -> int:
    """A whole number from 1 on, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def add_device(add, launcher: bool = False) -> None:
    """Where networks run, and if asked for how many processes; `add`: a parser's `add_argument`."""
    if launcher:
        add("--launcher", choices=LAUNCHERS, default="none", help="pytorch: torchrun; slurm: srun")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def add_config(add, name: str = "config", **config: Any) -> None:
    """A config file, and changes to it; `read_config` reads both."""
    add(name, **{"help": "a file in configs/", **config})
    add("--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE")
    add_skip(add)


def add_skip(add) -> None:
    """What to do about keyframes that can't be used."""
    told = "leave out, and count, clips that hold a keyframe without a usable pose or time"
    add("--skip-bad-frames", action="store_true", help=told)


def read_config(args: argparse.Namespace, path: str | Path | None = None) -> Config:
    """The config that `add_config`'s options say; `path`: one of several that it took."""
    skip = {"data.skip_bad_frames": True} if args.skip_bad_frames else {}
    return load_config(path or args.config, {**args.cfg_options, **skip})


def add_forecaster(add, several: bool = False) -> None:
    """How forecasters run, and with which parts (`several`: rows for each)."""
    parts = dict(nargs="+" if several else 1, default=["full"])
    add_device(add, launcher=several)
    add("--dtype", default="float32", choices=(*DTYPES, INT8, AUTO), help="auto: the fastest float")
    add("--backend", default="eager", choices=(*BACKENDS, AUTO), help="auto: by a second's trial")
    add("--decoder", choices=DECODERS, help="full, or the config's light one", **parts)
    add("--encoder", choices=ENCODERS, help="full, light, or from LiDAR voxels", **parts)
    add("--network", choices=NETWORKS, help="CHECKPOINT's, or the config's light student", **parts)


def forecaster_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_forecaster` parsed, as arguments of `lineup`."""
    dtype = AUTO if args.dtype == AUTO else getattr(torch, args.dtype)
    return dict(
        device=args.device, dtype=dtype, backend=args.backend,
        decoders=args.decoder, encoders=args.encoder, networks=args.network,
    )  # fmt: skip


def add_scoring(add) -> None:
    """Under which rules forecasts are scored."""
    add("--protocol", nargs="+", default=["occdistill"], metavar="NAME", help=", ".join(PROTOCOLS))
    add("--view", nargs="+", choices=VIEWS, default=[], help="count these voxels too")
    add("--workers", type=int, help="processes that read data; default: some beside a GPU, else 0")
    add("--out", type=Path, help="folder of the report and the counts")

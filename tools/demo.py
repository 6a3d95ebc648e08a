"""The main job on the embedded data, one command after the other, as a user would type them.

    python tools/demo.py configs/demo.py

World, MFD, scores, timing, real-time replay and pictures go to work_dirs/demo/; the second report,
in work_dirs/demo/hist/, is of the shipped models that know the past alone, scored as probabilities.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from occdistill.build.config import load_config
from occdistill.build.pretrained import PRETRAINED
from occdistill.errors import MAKE_WORLD, Parser, UserError, run

HIST = "configs/demo_hist.py"


def main() -> None:
    """Run the tools in order."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/demo.py")
    args = parser.parse_args()
    config = load_config(args.config)
    out = Path(config.work_dir)
    student = out / "mfd" / "student.pth"

    tool("make_world", *shlex.split(MAKE_WORLD)[2:])  # nothing to do where it is complete
    tool("train_mfd", args.config, "--resume")
    tool("test", args.config, student, "--out", out)
    tool(
        "test", HIST, PRETRAINED["demo-hist"], "--out", out / "hist", "--teacher-nfe", 10, 1,
        "--samples", 16, "--limit-clips", 12, "--repeats", 0,
    )  # fmt: skip
    tool("benchmark", args.config, student, "--out", out)
    tool("realtime", args.config, student, "--source", "replay", "--frames", 40, "--rate", 2)
    tool("visualize", args.config, student, "--clip", 12, "--out", out / "forecast.gif")
    print(f"\ndone: open {out}/report.md, {out}/hist/report.md and {out}/forecast.gif")


def tool(name: str, *arguments: object) -> None:
    """Run one of the tools beside this one, showing its command line."""
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments)]
    print(f"\n$ python tools/{name}.py {shlex.join(command[2:])}", flush=True)
    start = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    if code:
        raise UserError(f"tools/{name}.py stopped with exit code {code}; its own message is above")
    print(f"[{name}: {time.perf_counter() - start:.0f} s]", flush=True)


if __name__ == "__main__":
    run(main)

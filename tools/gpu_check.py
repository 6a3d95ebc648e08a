"""Check and measure this machine's GPU: one command, and two files to send back.

    python tools/gpu_check.py [--out work_dirs/gpu_check]

The doctor's findings, OccFM's golden vectors on the GPU, the tests that need one, one whole update of
MFD at full size (seconds and memory), and a short timing table. Ten minutes at most. Writes
`gpu_check.json` and `gpu_check.md`. Needs no data and no weights. Exit code: 0, or 1 if a part failed.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from occdistill import places
from occdistill.errors import Parser, UserError, run
from occdistill.evaluation.report import environment, git_commit
from occdistill.store import check_folder, write_json, write_text

SHOWN = 25  # lines of what a part printed
FOUND = ("update", "bench", "machine")  # files that the parts leave
PASSES = {"doctor": (0, 1)}  # its 1 is about data and weights, which nothing here needs


def commands(out: Path, device: str) -> dict[str, list[str]]:
    """What is run, by name: arguments of this Python."""
    update = ["--update", "--batch", "8", "--dtype", "float16", "--device", device]
    timing = ["--backend", "plain", "eager", "cuda-graphs", "--dtype", "float32", "float16"]
    timing += ["--repeats", "10", "--seconds", "60", "--device", device, "--out", str(out)]
    return {
        "doctor": [tool("doctor"), "--no-render"],
        "golden vectors": [tool("check_occfm"), "--device", device],
        "tests": ["-m", "pytest", "-m", "gpu", "--slow", "-q"],
        "update": ["-m", "occdistill.occfm.memory", *update, "--out", str(out / "update.json")],
        "timing": [tool("bench"), "configs/nus.py", *timing],
    }


def tool(name: str) -> str:
    """The script of a tool."""
    return str(Path(__file__).with_name(f"{name}.py"))


def carry_out(name: str, arguments: Sequence[str], until: float) -> dict:
    """Run one part; what came of it.

    Args:
        name: of the part.
        arguments: of this Python, in the folder of the project.
        until: when to stop it, on the clock of `time.monotonic`.
    """
    print(f"{name}: {shlex.join(['python', *arguments])}", flush=True)
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=places.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=max(0.0, until - start))
        except subprocess.TimeoutExpired:
            process.kill()
            printed = process.communicate()[0] + "\nstopped: the time was up"
    passed = process.returncode in PASSES.get(name, (0,))
    seconds = time.monotonic() - start
    print(f"  {'passed' if passed else 'FAILED'} in {seconds:.0f} s", flush=True)
    command = shlex.join(["python", *arguments])
    found = dict(command=command, passed=passed, exit_code=process.returncode, seconds=seconds)
    return {**found, "output": printed.strip().splitlines()[-SHOWN:]}


def page(facts: Mapping, parts: Mapping[str, dict], table: str) -> str:
    """What was found, to read."""
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
    lines = [f"# {facts['device']}", "", f"`python tools/gpu_check.py`: {said}.", ""]
    lines += ["| part | | seconds |", "|---|---|---|"]
    for name, part in parts.items():
        verdict = "passed" if part["passed"] else f"**failed**, exit code {part['exit_code']}"
        lines.append(f"| {name} | {verdict} | {part['seconds']:.0f} |")
    for name, part in parts.items():
        lines += ["", f"## {name}", "", f"`{part['command']}`", ""]
        shown = name == "timing" and table
        lines += [table] if shown else ["```", *part["output"], "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts, then write what they found."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/gpu_check"))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError(
            "no CUDA device: this is for a machine that has one (PyTorch's build here is for "
            f"{torch.version.cuda or 'the CPU'}); without one, `make test` tests on a pretended GPU"
        )
    out, until = check_folder(args.out.absolute()), time.monotonic() + 60 * args.minutes
    files, timing = {name: out / f"{name}.json" for name in FOUND}, out / "bench.md"
    for old in (*files.values(), timing):
        old.unlink(missing_ok=True)
    chosen = torch.cuda.get_device_properties("cuda")
    facts = {**environment("cuda"), "cuda": torch.version.cuda, "date": date.today().isoformat()}
    facts |= {"memory_gib": round(chosen.total_memory / 2**30, 1), "commit": git_commit()}
    parts = {name: carry_out(name, made, until) for name, made in commands(out, "cuda").items()}
    found = {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}
    write_json(out / "gpu_check.json", {"facts": facts, "parts": parts, **found})
    table = timing.read_text() if timing.exists() else ""
    write_text(out / "gpu_check.md", page(facts, parts, table))
    print(f"\nto send back: {out / 'gpu_check.md'} {out / 'gpu_check.json'}")
    return 0 if all(part["passed"] for part in parts.values()) else 1


if __name__ == "__main__":
    run(main)

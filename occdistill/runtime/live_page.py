"""What a live run reports, for people and for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from occdistill.runtime.live import LiveRunner


def live_page(report: dict) -> str:
    """The report for people."""
    frames = ", ".join(f"{count} {name}" for name, count in report["frames"].items())
    lines = [
        f"{report['device']}: {report['source']} at {report['rate']:g} Hz",
        f"{report['forecasts_per_s']:.2f} forecasts/s over {report['seconds']:.1f} s: {frames}",
        f"{report['missed']} later than the deadline of {report['deadline_ms']:.0f} ms",
        f"{'stage':10} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}  ms",
    ]
    for stage, summary in report["stages"].items():
        if summary["count"]:
            numbers = (summary[f"{q}_ms"] for q in ("p50", "p90", "p99", "max"))
            lines.append(f"{stage:10} " + " ".join(f"{x:9.2f}" for x in numbers))
    lines += [f"bad frame: {reason}" for reason in report["bad_frames"][-3:]]
    return "\n".join(lines)


def scalars_to(folder: Path) -> Callable[[LiveRunner, Tensor], bool]:
    """A listener that writes every report to TensorBoard; it never stops the run."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def log(runner: LiveRunner, future: Tensor) -> bool:
        report = runner.report()
        step = report["frames"]["forecasts"]
        for stage, summary in report["stages"].items():
            for name in ("p50_ms", "p99_ms"):
                writer.add_scalar(f"{stage}/{name}", summary[name], step)
        writer.add_scalar("frames/missed", report["missed"], step)
        for name in ("dropped", "bad"):
            writer.add_scalar(f"frames/{name}", report["frames"][name], step)
        return True

    return log

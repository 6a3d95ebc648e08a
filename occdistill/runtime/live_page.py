"""What a live run reports, for people and for TensorBoard."""

from __future__ import annotations

import re
from collections import Counter
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
    if report["jumps"]:
        lines.append(f"{report['jumps']} times a frame didn't follow the one before it")
    if report["unheard"]:
        lines.append(f"{report['unheard']} forecasts were not heard, see the log")
    if report["source_failed"]:
        lines.append(f"the source ended early: {report['source_failed']}")
    lines += [f"bad frame: {reason}" for reason in report["bad_frames"][-3:]]
    return "\n".join(lines)


def failure(report: dict) -> str | None:
    """Why a run isn't a success, in a sentence: no forecast, or none that was heard, or a source
    that failed. None if it is one.
    """
    frames, failed = report["frames"], report["source_failed"]
    if failed:
        return f"{report['source']} failed after {frames['arrived']} frames: {failed}"
    if frames["forecasts"]:
        unheard = report["unheard"] == frames["forecasts"]
        return "whatever forecasts are for failed at each of them; see the log" if unheard else None
    if not frames["arrived"]:
        return f"no forecast was made: {report['source']} sent no frame; check the source"
    taken = frames["bad"] + frames["filling"]
    if reasons := report["bad_frames"]:
        # file names and numbers tell frames of one fault apart
        kinds = [re.sub(r"\S*[/\d]\S*", "", reason.partition(": ")[2]) for reason in reasons]
        (common, _), *_ = Counter(kinds).most_common(1)
        return (
            f"no forecast was made: {frames['bad']} of {taken} frames were bad, most often "
            f"so: {reasons[kinds.index(common)]}"
        )
    if report["jumps"] > 1 and report["jumps"] >= taken / 2:
        return (
            f"no forecast was made: {report['jumps']} of {taken} frames didn't follow the one "
            "before them; give their times in seconds, and their poses in metres"
        )
    return (
        f"no forecast was made: {taken} frames didn't fill the window of past frames; "
        "let more of them come, without gaps"
    )


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

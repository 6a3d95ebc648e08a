"""Timings as pages: what `runtime.bench` measures, what its gains are made of, and line-ups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from occdistill.runtime.latency import SCOPES

TARGETS = {"generate_decode": 10, "end_to_end": 8}  # times the plain pipeline
LIGHT_TARGET = 20  # with light decoder and encoder
ALL_LIGHT_TARGET, ALL_LIGHT_LOWER_TARGET = 45, 60  # with a light network too; below float32
MERGE_TARGET = 20  # keyframes a second and core


def groups(rows: list[dict]) -> list[dict[str, dict]]:
    """Rows of one line together, by scope."""
    step = len(SCOPES)
    return [{r["scope"]: r for r in rows[i : i + step]} for i in range(0, len(rows), step)]


def parts(row: dict) -> str:
    """Decoder, encoder and network in words."""
    light = [name for name in ("decoder", "encoder", "network") if row[name] == "light"]
    *some, last = light or [""]
    return f"light {', '.join(some)}{' and ' * bool(some)}{last}" if light else "full"


def precision(row: dict) -> str:
    """Of matrix products, in words."""
    return row["dtype"] + " with TF32" * row["tf32"]


def bench_table(rows: list[dict], machine: dict) -> str:
    """Markdown for people: a line per model and back end, gains over the first line of its size."""
    ceilings = ", ".join(f"{v:.0f} GFLOP/s {k}" for k, v in machine["matmul_gflops"].items())
    merged = machine["merge_keyframes_per_s"]
    verdict = "met" if merged >= MERGE_TARGET else "missed"
    facts = (
        f"Ceilings measured in this run: matrix product {ceilings}; copy"
        f" {machine['copy_gbytes_per_s']:.1f} GB/s. Merging 5 LiDAR sweeps into a keyframe:"
        f" {merged:.1f} a second and core (target {MERGE_TARGET}, {verdict}); counting confusion"
        f" matrices: {machine['confusion_clips_per_s']:.0f} clips/s. GFLOP and GB are those of the"
        " networks as written, whatever a back end saves. TF32 is off in rows that don't name it."
    )
    columns = ["size", "model", "back end", "parts", *(f"{s} p50 ms (×)" for s in SCOPES)]
    columns += ["end to end p90 / p99 ms (n)", "clips/s", "GFLOP", "% of matmul", "% of copy"]
    columns += ["peak MiB", "voxels that differ"]
    origin = (
        f"`{machine['command']}`: {machine['device']}, {machine['date']}, torch {machine['torch']}."
        " Drawn streets; weights of a size that has no files are drawn too."
    )
    lines = [
        origin,
        "",
        facts,
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    base: dict[str, dict] = {}
    for group in groups(rows):
        head = group[SCOPES[0]]
        first = base.setdefault(head["size"], group)
        cells = [head["size"], f"{head['model']}@{head['nfe']}"]
        cells += [f"{head['backend']} {precision(head)}", parts(head)]
        cells += [
            f"{group[s]['p50_ms']:.1f} ({first[s]['p50_ms'] / group[s]['p50_ms']:.1f})"
            for s in SCOPES
        ]
        cells += [
            f"{percentiles(head)} ({head['repeats']})",
            f"{head['clips_per_s']:.2f}",
            f"{head['gflop']:.1f}",
            f"{100 * head['gflops'] / head['ceiling_gflops']:.0f}",
            f"{100 * head['gbytes_per_s'] / head['ceiling_gbytes_per_s']:.0f}",
            f"{head['peak_mb']:.0f}",
            f"{100 * head['voxels_differ']:.4f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percentiles(row: dict, names: Sequence[str] = ("p90_ms", "p99_ms")) -> str:
    """Those that there are, see `latency.side_by_side`."""
    return " / ".join("–" if row[name] is None else f"{row[name]:.1f}" for name in names)


def gains(rows: list[dict]) -> str:
    """How much faster one step is than the plain pipeline, split into its two causes."""
    columns = ["parts", "back end", "scope", "faster", "fewer operations"]
    columns += ["operations a second", "target"]
    lines = []
    for size in dict.fromkeys(row["size"] for row in rows):
        every = [g for g in groups(rows) if g[SCOPES[0]]["size"] == size]
        base, first = every[0], every[0][SCOPES[0]]
        title = (
            f"{size}: student@1 against {first['model']}@{first['nfe']}, guided, run plainly in"
            " float32. A gain in time is fewer operations × more operations a second."
        )
        lines += [title, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        students = [g for g in every if g[SCOPES[0]]["model"] == "student"]
        fastest: dict[tuple, dict] = {}  # of each precision
        for group in students:
            head = group[SCOPES[0]]
            key = (parts(head), precision(head))
            if key not in fastest or head["p50_ms"] < fastest[key][SCOPES[0]]["p50_ms"]:
                fastest[key] = group
        shown = list(fastest.values())
        if students and students[0] not in shown:  # student@1 run as the pipeline is
            shown.insert(0, students[0])
        for group, scope in product(shown, TARGETS):
            was, now = base[scope], group[scope]
            faster, fewer = was["p50_ms"] / now["p50_ms"], was["gflop"] / now["gflop"]
            if group in fastest.values():
                target = target_of(now)
                met = "met" if faster >= target else f"missed: {why(now, was)}"
                verdict = f"{target}×, {met}"
            else:
                verdict = "– (what evaluating less gives)"
            lines.append(
                f"| {parts(now)} | {now['backend']} {precision(now)} | {scope} | {faster:.1f}× |"
                f" {fewer:.1f}× | {faster / fewer:.2f}× | {verdict} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def target_of(row: dict) -> int:
    """Times the plain pipeline that a row should be."""
    light = [row[name] == "light" for name in ("decoder", "encoder", "network")]
    if all(light):
        return ALL_LIGHT_TARGET if row["dtype"] == "float32" else ALL_LIGHT_LOWER_TARGET
    return LIGHT_TARGET if light[:2] == [True, True] else TARGETS[row["scope"]]


def why(row: dict, base: dict) -> str:
    """What stands between a row and its target."""
    share = 100 * row["gflops"] / row["ceiling_gflops"]
    at_best = base["p50_ms"] / (1e3 * row["gflop"] / row["ceiling_gflops"])
    return (
        f"{row['gflop']:.1f} GFLOP run at {share:.0f} % of the matrix-product ceiling, the whole of"
        f" which would give {at_best:.0f}×"
    )


def benchmark_table(rows: list[dict], setting: dict) -> str:
    """Markdown: a line per model, its three scopes beside each other, gains over the first."""
    lines = [
        " · ".join(f"{key} {value}" for key, value in setting.items()),
        "",
        "| model | " + " | ".join(f"{scope} clips/s, p50 / p90 / p99 ms" for scope in SCOPES)
        + " | peak MiB | end to end × |",
        "|" + "---|" * (len(SCOPES) + 3),
    ]  # fmt: skip
    first = rows[0]["clips_per_s"]
    for i in range(0, len(rows), len(SCOPES)):
        group = rows[i : i + len(SCOPES)]
        cells = [
            f"{r['clips_per_s']:.2f}, {percentiles(r, ('p50_ms', 'p90_ms', 'p99_ms'))}"
            for r in group
        ]
        head = f"{group[0]['model']}@{group[0]['nfe']}"
        gain = group[0]["clips_per_s"] / first
        cells += [f"{group[0]['peak_mb']:.0f}", f"{gain:.1f}"]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

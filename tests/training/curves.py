"""What a training run has written down."""

import json
from pathlib import Path


def curve(work_dir, key):
    """A scalar over its steps, over all starts of a run; later starts replace earlier ones."""
    points = {}
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if key in entry:
                points[entry["step"]] = entry[key]
    return [points[step] for step in sorted(points)]


def points(key, steps):
    """Length of a curve: the student's losses also stand at 0, before the first update."""
    return steps + (key.startswith("student/") and "grad" not in key or key == "nfe")

"""The shipped weights: they fit in the repository and still give the scores committed with them.

`make weights` trains them anew and runs `python tests/test_demo_weights.py`, which rewrites the scores
and what the model cards in docs/models say of them.
"""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.evaluation.evaluate import count, score_counts
from occdistill.evaluation.rows import ceiling_row, forecast_row
from occdistill.evaluation.shared import PastLatents

REPO = Path(__file__).parents[1]
WEIGHTS = REPO / "data" / "demo-weights"
CARDS = REPO / "docs" / "models"
MARK = "<!-- facts: written by tests/test_demo_weights.py -->"


def measured(world: Path) -> dict:
    """Fingerprints of the weights, and IoU and mIoU (avg@1,2,3s) on every clip of a tiny world."""
    scores = {}
    for path, prefix in (("configs/demo.py", ""), ("configs/demo_hist.py", "hist_")):
        config = load_config(path, {"data.dataroot": str(world)})
        clips = build_dataset(config, "train")  # of a world that is new to the weights
        models = Models(config)
        entries = lineup(models, WEIGHTS / f"{prefix}student.pth", (10, 1))
        past = PastLatents()
        rows = [forecast_row(prefix + e.model, e.forecaster, share=past) for e in entries]
        if not prefix:
            rows.append(ceiling_row(models.codec()))
        for row, counts in zip(rows, count(rows, clips, progress=False)):
            found = score_counts(counts)
            scores[row.name] = {k: round(found[k]["avg@1,2,3s"], 2) for k in ("IoU", "mIoU")}
    marks = {
        name: checkpoints.fingerprint(checkpoints.load(WEIGHTS / f"{name}.pth")["model"])
        for name in ("vae", "teacher", "student", "hist_teacher", "hist_student")
    }
    return {"weights": marks, "scores": scores}


def test_the_shipped_weights_give_the_committed_scores(tiny_world):
    torch.manual_seed(0)
    expected = json.loads((WEIGHTS / "scores.json").read_text())
    found = measured(tiny_world)
    assert found["weights"] == expected["weights"]
    for name, scores in expected["scores"].items():
        # half a point: other machines round differently, and few clips make classes small
        assert found["scores"][name] == pytest.approx(scores, abs=0.5)


def test_the_shipped_weights_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.pth")) <= 29.5e6


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_weights_trains_each_of_them_on_those_it_has_just_trained():
    dry_run = ["make", "--dry-run", "--no-print-directory", "weights"]
    done = subprocess.run(dry_run, cwd=REPO, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    made: list[Path] = []
    for _, tool, path, resume, flag, *options in (
        line for line in lines if len(line) > 1 and line[1].startswith("tools/train_")
    ):
        assert (resume, flag) == ("--resume", "--cfg-options")
        place = None
        if "--work-dir" in options:
            *options, _, place = options
        config = load_config(
            path, {k: literal(v) for k, _, v in (o.partition("=") for o in options)}
        )
        part = Path(tool).stem.removeprefix("train_")
        needs = ["vae"] if part not in ("vae", "plan") else []
        if config.get("student_checkpoint"):
            needs.append("student")
        if part == "distill":
            own = Path(config.work_dir, "regression", "student.pth")
            needs.append("teacher")
        elif part == "mfd":
            own = Path(place or Path(config.work_dir, "mfd"), "student.pth")
            assert config.train_distill.compact is True  # in half precision
            needs = ["plan" if config.conditioning.kind == "plan" else "teacher", *needs]
        else:
            own = Path(config.work_dir, f"{part}.pth")
            assert Path(config[f"{part}_checkpoint"]) == own and config[f"train_{part}"].iterations
        assert all(Path(config[f"{need}_checkpoint"]) in made for need in needs)
        made.append(own)
    copied = {}
    for _, *sources, target in (line for line in lines if line[:1] == ["cp"]):
        for source in made:
            if any(source.match(pattern) for pattern in sources):
                place = Path(target)
                copied[place.name if place.suffix else source.name] = source
    halfway = {own for own in made if own.parent.name == "regression"}
    assert len(halfway) == 1 and sorted(copied.values()) == sorted(set(made) - halfway)
    assert set(copied) == {file.name for file in WEIGHTS.glob("*.pth")}


def literal(text: str):
    return {"True": True, "4": 4}.get(text, text)


def facts(name: str) -> str:
    """What a checkpoint and the committed scores say, as the list in its model card."""
    state = checkpoints.load(WEIGHTS / f"{name}.pth")
    weights, meta = checkpoints.weights(state), state["meta"]
    kinds = {str(value.dtype).removeprefix("torch.") for value in weights.values()}
    made_of = {k: v for k, v in state["fingerprints"].items() if k in ("vae", "teacher")}
    known = {
        "kind": state["kind"],
        "numbers": f"{sum(value.numel() for value in weights.values()):,}, {', '.join(kinds)}",
        "fingerprint": checkpoints.fingerprint(weights),
        "made of": ", ".join(f"{k} {v}" for k, v in made_of.items()) or "nothing else",
        "conditioning": state["fingerprints"].get("conditioning", "none"),
        "updates, seed": f"{meta['step']:,}, {meta['seed']}",
        "validation while training": ", ".join(f"{k} {v:.2f}" for k, v in meta["metrics"].items()),
    }
    scores = json.loads((WEIGHTS / "scores.json").read_text())["scores"]
    for row, score in scores.items():
        if row.partition("@")[0] == name or (row == "VAE ceiling" and name == "vae"):
            known[row] = f"IoU {score['IoU']}, mIoU {score['mIoU']}"
    return "".join(f"- {key}: {value}\n" for key, value in known.items())


def card(name: str) -> tuple[str, str, str]:
    """A model card up to its list, the list, and what comes after."""
    head, mark, rest = (CARDS / f"{name}.md").read_text().partition(f"{MARK}\n")
    listed, end, tail = rest.partition("<!-- end -->")
    return head + mark, listed, end + tail


@pytest.mark.parametrize("name", sorted(file.stem for file in WEIGHTS.glob("*.pth")))
def test_every_weight_has_a_card_that_is_about_it(name):
    head, listed, rest = card(name)
    assert listed == facts(name)
    for heading in ("Data", "Training", "Facts and scores", "Limits", "Licence"):
        assert f"**{heading}**" in head + rest


if __name__ == "__main__":
    import tempfile

    from occdistill.world import make_world

    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder), scenes=3, val_scenes=1, seed=7, keyframes=12, workers=1)
        text = json.dumps(measured(Path(folder)), indent=1)
    (WEIGHTS / "scores.json").write_text(text + "\n")
    for path in WEIGHTS.glob("*.pth"):
        head, _, rest = card(path.stem)
        (CARDS / f"{path.stem}.md").write_text(head + facts(path.stem) + rest)
    print(text)

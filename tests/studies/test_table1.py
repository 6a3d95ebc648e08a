"""The table on the tiny world with an untrained teacher: bookkeeping, not quality."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import build_network, build_vae
from occdistill.build.config import load_config
from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, Window
from occdistill.studies.table1 import report, scores
from occdistill.studies.table1.plan import load_plan, search_plan
from occdistill.studies.table1.runs import (
    complete,
    diverged,
    finished,
    finished_runs,
    inputs,
    prepare,
    run_one,
    signature,
    updates_of,
)
from occdistill.studies.table1.search import search_results, with_rates

ROOT = Path(__file__).parents[2]
BASE = """
    from occdistill.autoencoder.vae import VAE
    from occdistill.distill.mfd import MFD
    from occdistill.flow.networks.small import SpaceTimeUNet

    data = dict(dataroot="{world}", version="v1.0-synthetic", past=4, future=6, crop=25.6,
                coarsen=4, train_split="train", val_split="val")
    vae = dict(type=VAE, grid_shape=(32, 32, 4), channels=8, width=(16, 16), blocks=(1, 1),
               decoder_width=16)
    vae_checkpoint = "{folder}/vae.pth"
    teacher_checkpoint = "{folder}/teacher.pth"
    conditioning = dict(kind="gt", align=(0,))
    network = dict(type=SpaceTimeUNet, latent_shape=(8, 8, 8), past=4, future=6, align=1,
                   trajectory=10, width=16, blocks=(1, 1))
    guidance = 2.0
    sampler = dict(steps=2)
    method = dict(type=MFD)
    train_distill = dict(iterations=1, batch_size=2)
    work_dir = "{folder}/base"
"""
TABLE = """
    from occdistill.distill.consistency import Consistency
    from occdistill.distill.dmd2 import DMD2
    from occdistill.distill.meanflow import MeanFlow
    from occdistill.distill.mfd import MFD

    base = "{folder}/base.py"
    work_dir = "{folder}/table"
    reference = "mfd"
    updates = 2
    seeds = (0, 1)
    clips = 3
    samples = 2
    train = dict(batch_size=2, lr=1e-3, warmup=1, val_clips=1)
    rows = dict(
        mfd=dict(title="MFD", method=dict(type=MFD, ratio=2, ode_step=0.25)),
        meanflow=dict(title="MeanFlow", method=dict(type=MeanFlow), train=dict(lr=1e-4)),
        consistency=dict(title="consistency", method=dict(type=Consistency)),
        dmd2=dict(title="DMD2", method=dict(type=DMD2, ratio=1), seeds=(0,)),
    )
    search = dict(
        lr=(1e-4, 1e-3), seed=100, samples=1, clips=2, options={{"data.val_split": "train"}}
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_world):
    folder = tmp_path_factory.mktemp("table")
    for name, text in (("base", BASE), ("table", TABLE)):
        filled = textwrap.dedent(text).format(folder=folder, world=tiny_world)
        (folder / f"{name}.py").write_text(filled)
    base = load_config(folder / "base.py")
    torch.manual_seed(0)
    vae, teacher = build_vae(base, weights=False), build_network(base)
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for kind, net in (("vae", vae), ("teacher", teacher)):
        state = {"kind": kind, "model": net.state_dict(), "fingerprints": {}}
        checkpoints.save(folder / f"{kind}.pth", state)
    return folder / "table.py"


@pytest.fixture(scope="module")
def trained(config):
    """All runs of both budgets for one seed, two rows for the other."""
    plan = load_plan(config)
    prepare(plan, "cpu")
    for key in plan.rows:
        run_one(plan, "updates", key, 0, "cpu")
    for key in ("mfd", "meanflow"):
        run_one(plan, "updates", key, 1, "cpu")
    run_one(plan, "evaluations", "meanflow", 0, "cpu")
    return plan


def test_runs_leave_their_record_and_are_not_repeated(trained):
    folder = trained.folder("updates", "meanflow", 0)
    record = finished(folder)
    assert record["updates"] == 2 and record["settings"]["lr"] == 1e-4
    assert record["scores"]["clips"] == 3
    # x_t per clip: guided teacher 2, derivative 2, student 1
    assert record["evaluations"] == 2 * 2 * (2 + 2 + 1)
    assert record["passes"] == record["evaluations"] + 2 * 2 * 2  # the student's backward
    assert record["cost"]["seconds"] > 0 and record["cost"]["peak_mb"] > 10
    held = record["cost"]["memory"]
    assert held["weights"] > held["gradients"] > 0  # Adam: two moments, and a step per tensor
    assert held["optimisers"] == pytest.approx(2 * held["gradients"], rel=0.01)
    assert 0 <= record["scores"]["measures"]["samples"]["diversity"]["avg@all"] <= 100
    before = (folder / "run.json").stat().st_mtime_ns
    assert run_one(trained, "updates", "meanflow", 0, "cpu") == record
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_a_folder_with_other_settings_is_not_overwritten(trained, config, tmp_path):
    text = config.read_text().replace("lr=1e-3, warmup", "lr=2e-3, warmup")
    other = tmp_path / "other.py"
    other.write_text(text)
    with pytest.raises(UserError, match="other settings"):
        run_one(load_plan(other), "updates", "mfd", 0, "cpu")


def test_another_teacher_or_learning_rate_is_noticed(trained, config, tmp_path):
    folder = config.parent
    made_of = inputs(trained)
    mark = signature(trained, made_of, "mfd", 2, 0)
    assert mark == finished(trained.folder("updates", "mfd", 0))["signature"]
    assert mark != signature(trained, made_of, "mfd", 2, 1)
    teacher = folder / "teacher.pth"
    before = teacher.read_bytes()
    state = checkpoints.load(teacher)
    next(iter(state["model"].values())).add_(1)
    checkpoints.save(teacher, state)
    try:
        with pytest.raises(UserError, match="other settings, networks or clips"):
            run_one(trained, "updates", "mfd", 0, "cpu")
    finally:
        teacher.write_bytes(before)
    run = trained.folder("updates", "dmd2", 0) / "run.json"
    before = run.read_text()
    run.write_text(before.replace(made_of["teacher"], "0123456789ab"))
    try:
        with pytest.raises(UserError, match="mixes runs of different networks"):
            report.gather(trained)
    finally:
        run.write_text(before)


def test_equal_evaluations_give_cheaper_methods_more_updates(trained):
    costs = {
        key: finished(trained.folder("updates", key, 0))["evaluations"]
        for key in ("mfd", "meanflow", "consistency")
    }
    for key in ("meanflow", "consistency"):
        allowed = updates_of(trained, "evaluations", key)
        spent = allowed * costs[key] / 2
        # the reference's cost per update varies with its random intervals: seeds are averaged
        assert spent == pytest.approx(costs["mfd"], rel=0.35)
    assert updates_of(trained, "evaluations", "mfd") == 2
    record = finished(trained.folder("evaluations", "meanflow", 0))
    assert record["updates"] == updates_of(trained, "evaluations", "meanflow") > 2
    assert ("mfd", 0) not in trained.runs("evaluations")
    unknown = replace(trained, work_dir=f"{trained.work_dir}-elsewhere")
    with pytest.raises(UserError, match="under the budget 'updates' first"):
        updates_of(unknown, "evaluations", "dmd2")


def test_the_report_has_means_spreads_differences_and_pictures(trained):
    content = report.write(trained, "python tools/table1.py table.py")
    rows = content["budgets"]["updates"]
    assert set(rows) == {"mfd", "meanflow", "consistency", "dmd2"}
    values = rows["mfd"]["mIoU"]["avg@1,2,3s"]
    assert values["mean"] == pytest.approx(sum(values["values"]) / 2)
    assert rows["consistency"]["mIoU"]["avg@1,2,3s"]["spread"] is None  # one seed
    assert "reference_minus_this" not in rows["mfd"]
    gap = rows["meanflow"]["reference_minus_this"]["mIoU"]
    assert gap["value"] == pytest.approx(
        values["mean"] - rows["meanflow"]["mIoU"]["avg@1,2,3s"]["mean"], abs=1e-6
    )
    assert rows["meanflow"]["reference_minus_this"]["scenes"] == 1
    assert gap["interval"] is None  # one scene says nothing about others
    assert rows["dmd2"]["seeds"] == [0] and rows["mfd"]["seeds"] == [0, 1]
    for name in scores.SCORES:
        assert np.isfinite(rows["mfd"][name]["mean"]), name
    skills = [
        finished(trained.folder("updates", "mfd", s))["scores"]["measures"]["probability"]
        for s in (0, 1)
    ]
    assert skills[0]["k"] == 2 and skills[0]["reference"] == "ego-warp, objects carried"
    assert content["references"]["ego-warp, objects carried"]["skill"]["mean"] == 0
    assert content["references"]["copy-last"]["diversity"]["mean"] is None
    assert set(content["budgets"]["evaluations"]) == {"mfd", "meanflow"}
    assert {"teacher@10", "teacher@1", "copy-last", "ego-warp"} <= content["references"].keys()

    assert rows["meanflow"]["passes_per_update"] == 7

    folder = Path(trained.work_dir)
    page = (folder / "table.md").read_text()
    assert "| F per update |" in page
    assert "26.42" in page and "not reproduced" in page  # the published block
    assert "Equal network evaluations" in page and "± " in page
    assert "### Equal student updates: as probabilities" in page
    assert "| MFD − this, skill |" in page and "By the intervals of Brier skill: " in page
    json.loads((folder / "table.json").read_text())
    for name in ("horizons.png", "training.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    steps, values = report.curve(trained.folder("updates", "mfd", 0), "val/mIoU")
    assert steps[-1] == 2 and len(values) == len(steps)


def test_a_row_differs_from_itself_by_nothing(trained):
    runs = list(finished_runs(trained, "updates", "mfd").values())
    for name in ("mIoU", "skill", "ECE"):
        assert report.difference(runs, runs)[name] == {"value": 0, "interval": None}


def test_differences_take_scenes_and_seeds(tmp_path, monkeypatch):
    """Hits of one class in three scenes, two seeds a row: all by hand."""
    monkeypatch.setattr(scores, "SCORES", {})
    sizes = {"ours": [(40, 50, 60), (60, 70, 80)], "theirs": [(30, 50, 30), (50, 50, 50)]}
    folders = {}
    for row, seeds in sizes.items():
        for seed, hits in enumerate(seeds):
            folder = tmp_path / row / str(seed)
            windows = [Window(f"s{i}/t", f"s{i}", 4, 20) for i in range(3)]
            counts = Counts(windows, 6, folder=folder / "counts" / report.STUDENT)
            for i, count in enumerate(hits):
                target = np.full((6, 100), 4, np.uint8)
                pred = np.where(np.arange(100) < count, target, 17).astype(np.uint8)
                counts.update(i, "all", pred, target)
            counts.save({})
            folders.setdefault(row, []).append((folder, {"scores": {"measures": {}}}))
    found = report.difference(folders["ours"], folders["theirs"])
    # per scene, ours minus theirs over seeds: (100 - 80, 120 - 100, 140 - 80) / 2 = 10, 10, 30;
    # every scene is of 100 voxels, so the IoU is their mean, and its variance 400 / 3 / 3; seeds have
    # 50 and 70, and 110 / 3 and 50
    parts = (400 / 9, 2), (200 / 2, 1), ((40 / 3) ** 2 / 2 / 2, 1)
    total = sum(v for v, _ in parts)
    freedom = total**2 / sum(v**2 / n for v, n in parts)
    assert found["scenes"] == 3
    for metric in ("mIoU", "IoU"):
        low, high = found[metric]["interval"]
        assert found[metric]["value"] == pytest.approx(50 / 3)
        assert (low + high) / 2 == pytest.approx(50 / 3)
        expected = student_t.ppf(0.975, freedom) * np.sqrt(total)
        assert (high - low) / 2 == pytest.approx(expected)


def test_the_verdict_says_what_intervals_tell(trained):
    def row(title, interval):
        return {
            "title": title,
            "reference_minus_this": {"scenes": 12, "skill": {"interval": interval}},
        }

    rows = {
        "mfd": {"title": "MFD"},
        "a": row("low", [0.1, 0.5]),
        "b": row("high", [-0.5, -0.1]),
        "c": row("open", [-0.1, 0.1]),
        "d": row("alone", None),
    }
    said = report._verdict({"reference": "mfd"}, rows, "skill")
    for part in ("MFD is above low;", "MFD is below high;", "undecided against open, alone."):
        assert part in said
    assert "12 scenes" in said and "Of 4 such intervals" in said
    assert "nothing to compare" in report._verdict({"reference": "mfd"}, {"mfd": {"title": "MFD"}})


def test_the_search_uses_other_clips_and_finds_the_best_rate(trained):
    searched = search_plan(trained)
    assert len(searched.rows) == 2 * len(trained.rows)
    assert searched.updates == trained.updates and searched.samples == 1
    assert {run[1] for run in searched.runs("updates")} == {100}
    assert list(search_plan(trained, ["dmd2"]).rows) == ["dmd2-lr0.0001", "dmd2-lr0.001"]
    with pytest.raises(UserError, match="no row 'nothing'"):
        search_plan(trained, ["nothing"])
    for lr in ("0.0001", "0.001"):
        run_one(searched, "updates", f"mfd-lr{lr}", 100, "cpu")
    result = search_results(trained)
    assert list(result["rows"]) == ["mfd"]  # nothing else was searched
    skills, best = result["rows"]["mfd"]["skill"], result["rows"]["mfd"]["best"]
    assert set(skills) == {"0.0001", "0.001"}
    assert skills[best] == max(skills.values())
    rows = with_rates(trained).rows
    assert rows["mfd"].train["lr"] == float(best) and rows["meanflow"] == trained.rows["meanflow"]
    content = report.write(trained, "the command")
    page = (Path(trained.work_dir) / "table.md").read_text()
    assert content["search"] == report.plain(result)
    assert f"| MFD | {skills['0.0001']:.2f} | {skills['0.001']:.2f} |" in page


def test_another_test_set_is_scored_beside_without_training_again(trained, tiny_world):
    plan = replace(trained, also=(f"{tiny_world}:train",))
    (test,) = plan.also
    folder = plan.folder("updates", "meanflow", 0)
    marks = {t: signature(plan, inputs(plan, t), "meanflow", 2, 0) for t in ("", test)}
    assert complete(folder, {"": marks[""]}) and not complete(folder, marks)
    before = (folder / "run.json").stat().st_mtime_ns
    run_one(plan, "updates", "meanflow", 0, "cpu")
    assert complete(folder, marks) and (folder / "run.json").stat().st_mtime_ns == before
    content = report.gather(plan)
    there = content["also"][test]["budgets"]["updates"]
    assert set(there) == {"meanflow"}
    assert there["meanflow"]["mIoU"] != content["budgets"]["updates"]["meanflow"]["mIoU"]
    assert f"## Equal student updates, on {test}" in report.table_page(content, "the command")


def test_students_are_scored_with_more_evaluations(config, tmp_path):
    plan = replace(load_plan(config, tmp_path), seeds=(0,), steps=(1, 2), clips=1)
    record = run_one(plan, "updates", "meanflow", 0, "cpu")
    assert list(record["by_steps"]) == ["1", "2"] and record["trained_for"] == 1
    assert record["by_steps"]["1"] == record["scores"]
    content = report.write(plan, "the command")
    scores = content["budgets"]["updates"]["meanflow"]["by_steps"]
    assert scores["2"]["mIoU"]["mean"] == pytest.approx(
        record["by_steps"]["2"]["mIoU"]["avg@1,2,3s"], abs=1e-9
    )
    page = (tmp_path / "table.md").read_text()
    assert "| method | trained for | NFE 1 | NFE 2 |" in page
    made_of = inputs(plan)
    plain = replace(plan, steps=(1,))
    marks = {signature(p, made_of, "meanflow", 2, 0) for p in (plan, plain)}
    assert len(marks) == 2 and signature(plan, made_of) == signature(plain, made_of)


def test_a_row_that_diverges_is_shown_with_its_cause(config, tmp_path, monkeypatch):
    plan = replace(load_plan(config, tmp_path), seeds=(0,))
    monkeypatch.setattr(
        "occdistill.distill.consistency.pseudo_huber", lambda square, c: square * float("nan")
    )
    run_one(plan, "updates", "consistency", 0, "cpu")
    assert "student/loss became nan at step 0" in diverged(plan, "consistency")[0]
    run_one(plan, "updates", "mfd", 0, "cpu")
    content = report.write(plan, "the command")
    assert set(content["budgets"]["updates"]) == {"mfd"}
    page = (tmp_path / "table.md").read_text()
    assert "## Diverged, and so not scored\n\nconsistency: student/loss became nan" in page
    with pytest.raises(UserError, match="under the budget 'updates' first"):
        updates_of(plan, "evaluations", "consistency")


@pytest.mark.slow
def test_the_command_resumes_reports_and_refuses(config, tmp_path):
    def call(*more, path=config):
        command = [sys.executable, "tools/table1.py", str(path), "--out", str(tmp_path), *more]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)

    assert call("--report").returncode == 2  # nothing to report yet
    wrong = call("--rows", "nothing")
    assert wrong.returncode == 2 and "no row 'nothing'" in wrong.stderr
    rows = ("--rows", "mfd", "consistency", "--seeds", "0", "--jobs", "2")
    first = call(*rows)
    assert first.returncode == 0, first.stderr
    assert "# Table 1, measured" in first.stdout and "lr 0.0001" in first.stdout
    marks = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")}
    # references, two rows, consistency with equal evaluations, two rates of each
    assert len(marks) == 4 + 4
    assert call(*rows).returncode == 0
    assert marks == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")}
    text = config.read_text().replace("warmup=1", "warmup=2")
    changed = config.with_name("changed.py")
    changed.write_text(text)
    refused = call(*rows, path=changed)
    assert refused.returncode == 2 and "holds a run with other settings" in refused.stderr
    (tmp_path / "updates" / "mfd" / "seed0" / "run.json").unlink()
    (tmp_path / "updates" / "mfd" / "seed0" / "signature.txt").write_text("other")
    broken = call(*rows)
    assert broken.returncode == 2 and "log.txt" in broken.stderr


def test_bad_table_configs_are_refused_in_one_sentence(config, tmp_path):
    cases = {
        'reference = "mfd"': ('reference = "mdf"', "'mdf' is none of its rows"),
        "updates = 2": ("update = 2", "did you mean updates"),
        "seeds = (0, 1)": ("seeds = (0, 1.5)", r"seeds\[1\] is 1.5; it should be a valid integer"),
        'title="MFD"': ('name="MFD"', "rows.mfd.name"),
        "clips = 3": ("", None),
    }
    for number, (old, (new, message)) in enumerate(cases.items()):
        path = tmp_path / f"bad{number}.py"
        path.write_text(config.read_text().replace(old, new, 1))
        if message is None:
            assert load_plan(path).clips == 0
        else:
            with pytest.raises(UserError, match=message):
                load_plan(path)
    with pytest.raises(UserError, match="no table config"):
        load_plan(tmp_path / "missing.py")
    path = tmp_path / "budget.py"
    path.write_text(config.read_text().replace("seed=100", "updates=1"))
    with pytest.raises(UserError, match="may say clips, samples, seed"):
        load_plan(path)
    path = tmp_path / "own_clips.py"
    path.write_text(config.read_text().replace("data.val_split", "sampler.steps"))
    with pytest.raises(UserError, match="own clips"):
        load_plan(path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/table1").glob("*.py")), ids=lambda p: p.stem
)
def test_shipped_tables_load_and_every_row_is_a_valid_config(path):
    plan = load_plan(path)
    assert len(plan.seeds) >= 3
    for key in plan.rows:
        config = load_config(ROOT / plan.base, plan.run_options(key, 3))
        assert config.train_distill.iterations == 3
    if plan.search:
        assert all(key in search_plan(plan).options for key in plan.search["options"])


def test_every_curve_has_a_look_of_its_own():
    from occdistill.studies.table1.report import _styles

    styles = _styles({str(i): f"method {i}" for i in range(25)}, "3")
    looks = {(s["color"], str(s.get("linestyle")), s["marker"]) for s in styles.values()}
    assert len(looks) == 25
    first = [styles[str(i)] for i in range(12) if i != 3]
    assert len({s["marker"] for s in first}) == 2 and len({s["color"] for s in first}) == 6

"""Train what isn't trained yet: the teacher, the search for learning rates, and every student."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from occdistill import checkpoint as checkpoints
from occdistill.build.settings import TeacherSettings
from occdistill.distill import methods
from occdistill.distill.base import DistributionMatching, Method, frozen
from occdistill.evaluation.measures.plans import energy_score
from occdistill.flow.networks.plan import PlanField
from occdistill.seeds import number
from occdistill.store import read_json, write_json
from occdistill.studies.plans.scores import SHAPE, STUDENT, TEACHER, futures
from occdistill.studies.plans.windows import FUTURE, PAST, Plans
from occdistill.studies.toy import fit
from occdistill.training.teacher import FlowMatching

EVERYWHERE, BEFORE = "everywhere", "before junctions"
WIDTH = 64
SEARCH = 1000  # seed of the search
OTHER_RATES = 1e-3  # of auxiliaries and discriminators
# one needs a decoder of voxels, the others a network in two parts
UNFIT = ("XPrediction", "MetaFlowMap", "TransitionMatching")
MAIN = ("MFD", "DiffInstruct", "VelocityMatching", "DMD2", "Regression")


@dataclass(frozen=True)
class Budget:
    """What the study takes.

    Attributes:
        towns: to train on; the search keeps every fifth of them to score on.
        checks: other towns, to test on.
        windows: of the test towns, everywhere and again before junctions.
        teacher: updates of the teacher, of 256 windows.
        updates: of a student, of 128 windows.
        seeds: of the methods in `MAIN`.
        fewer: seeds of the others.
        rates: learning rates of the student to choose from.
        seed: of towns, teacher and students.
    """

    towns: int = 40
    checks: int = 12
    windows: int = 800
    teacher: int = 4000
    updates: int = 300
    seeds: int = 10
    fewer: int = 5
    rates: tuple[float, ...] = (3e-4, 1e-3)
    seed: int = 0

    def runs(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Methods and seeds, one seed of all after the other."""
        return [
            (name, seed)
            for seed in range(max(self.seeds, self.fewer))
            for name in names
            if seed < (self.seeds if name in MAIN else self.fewer)
        ]


def once(path: Path, make: Callable[[], object], wait: bool = True) -> None:
    """Make a file that isn't there; of several processes one does.

    Args:
        path: of the file.
        make: writes it.
        wait: for another process that is at it, rather than leave it to that one.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return
        if not path.exists():
            make()


class Runs:
    """The study's files in a folder, each made when it is asked for first.

    The folder holds `windows-*.npz` and, for one budget of towns and updates of the teacher,
    `teacher-*.pth`; in a folder named after the teacher's weights there are `search/` and the
    students.

    Args:
        folder: of all files.
        budget: see there.
        names: of the methods.
    """

    def __init__(self, folder: Path, budget: Budget, names: Sequence[str]) -> None:
        self.folder, self.budget, self.names = folder, budget, list(names)
        self.train = self._windows("train", budget.towns, 1)
        mark = f"{budget.towns}-{budget.teacher}-{budget.seed}"
        path = folder / f"teacher-{mark}.pth"
        once(path, self._train_teacher(path))
        self.teacher: PlanField = PlanField(FUTURE, PAST, (5, 1, 1), WIDTH)
        state = checkpoints.load(path, "plans")["model"]
        checkpoints.load_weights(self.teacher, state, path)
        frozen(self.teacher)
        self.students = folder / checkpoints.fingerprint(state)

    def test(self) -> dict[str, Plans]:
        """Windows of towns that nothing was trained on, everywhere and before junctions."""
        all_ = self._windows("val", self.budget.checks, 1)
        some = {EVERYWHERE: all_, BEFORE: all_[all_.junctions]}
        return {kind: data.some(self.budget.windows) for kind, data in some.items() if len(data)}

    def train_all(self) -> None:
        """All that is missing, `MAIN` first; what another process is at is waited for at the end."""
        for main in (True, False):
            names = [name for name in self.names if (name in MAIN) == main]
            for wait in (False, True):
                for name, rate in product(names, self.budget.rates):
                    self._search(name, rate, wait)
            for wait in (False, True):
                for name, seed in self.budget.runs(names):
                    path = self._student(name, seed)
                    once(path, lambda n=name, s=seed, p=path: self._train_student(n, s, p), wait)

    def rate(self, name: str) -> float:
        """The learning rate whose student had the least energy score in the search."""
        return min(self.budget.rates, key=lambda rate: self._search(name, rate))

    def found(self, name: str, seed: int) -> tuple[nn.Module, dict[str, Any]] | None:
        """A trained student, and what it cost; None where its training diverged."""
        path = self._student(name, seed)
        saved = checkpoints.load(path, "plans")
        if saved["meta"]["diverged"]:
            return None
        student = make_method(name, self.teacher).nets["student"]
        checkpoints.load_weights(student, saved["model"], path)
        return frozen(student), saved["meta"]

    def _windows(self, split: str, towns: int, stride: int) -> Plans:
        path = self.folder / f"windows-{split}-{towns}-{stride}-{self.budget.seed}.npz"
        once(path, lambda: Plans.of_world(split, towns, self.budget.seed, stride).save(path))
        return Plans.load(path)

    def _train_teacher(self, path: Path) -> Callable[[], None]:
        def make() -> None:
            teacher = train_teacher(self.train, self.budget.teacher, self.budget.seed)
            content = {"kind": "plans", "model": teacher.state_dict(), "meta": asdict(self.budget)}
            checkpoints.save(path, content)

        return make

    def _search(self, name: str, rate: float, wait: bool = True) -> float:
        """Energy score on every fifth training town of a student that was trained on the others."""
        path = self.students / "search" / f"{name}-{self.budget.updates}-{rate:g}.json"

        def make() -> None:
            held = self.train.town % 5 == 4
            if held.all() or not held.any():  # a single town, in a quick run
                held = torch.arange(len(held)) % 5 == 4
            held_out = self.train[held].some(500)
            student, _ = self._distil(name, self.train[~held], rate, SEARCH)
            score = energy_score(futures(student, held_out, 1), held_out.true).mean()
            write_json(path, {"energy": float(score) if score.isfinite() else None})

        once(path, make, wait)
        score = read_json(path)["energy"] if path.exists() else None
        return math.inf if score is None else score

    def _student(self, name: str, seed: int) -> Path:
        return self.students / f"{name}-{self.budget.updates}-{seed}.pth"

    def _train_student(self, name: str, seed: int, path: Path) -> None:
        rate = self.rate(name)
        student, meta = self._distil(name, self.train, rate, seed)
        finite = all(bool(value.isfinite().all()) for value in student.state_dict().values())
        state = student.state_dict() if finite else {}
        meta |= {"rate": rate, "diverged": not finite}
        checkpoints.save(path, {"kind": "plans", "model": state, "meta": meta})

    def _distil(self, name: str, data: Plans, rate: float, seed: int) -> tuple[nn.Module, dict]:
        start = time.process_time()
        torch.manual_seed(number(self.budget.seed, STUDENT, seed))
        method = make_method(name, self.teacher)
        method.evaluations = 0
        student = distil(method, data, self.teacher, self.budget.updates, rate, seed)
        spent = method.evaluations / self.budget.updates / 128
        return student, {"evaluations": spent, "seconds": time.process_time() - start}


def train_teacher(data: Plans, steps: int, seed: int = 0) -> PlanField:
    """The flow of plans given past steps and the map, frozen."""
    torch.manual_seed(number(seed))
    field = PlanField(FUTURE, PAST, (5, 1, 1), WIDTH)
    field.fit_scales(data.past, data.plan)
    settings = TeacherSettings(iterations=steps, batch_size=256, condition_dropout=0.0)
    draw = lambda count, generator: data.batch(field, count, generator)
    task = FlowMatching(field, settings)
    decay = dict(updates=steps, final_lr=1e-5, fused=True)
    fit(task, steps, 256, 1e-3, seed, TEACHER, points=draw, **decay)
    return frozen(task.nets["teacher"])


def make_method(name: str, teacher: PlanField) -> Method:
    """A method around an unguided teacher; an auxiliary of ten updates gets five (Table 1).

    A discriminator reads a single cell, and has heads without convolutions.
    """
    kind = methods()[name]
    options: dict[str, Any] = {}
    if any("heads" in signature(cls.__init__).parameters for cls in kind.__mro__):
        options["heads"] = [head(tap.channels) for tap in teacher.taps]
    if issubclass(kind, DistributionMatching) and kind(teacher, SHAPE).ratio == 10:
        options["ratio"] = 5
    return kind(teacher, SHAPE, guidance=1.0, **options)


def head(channels: int) -> nn.Module:
    """A discriminator's head for maps of one cell: to one logit, `(B, 1)`."""
    layers = [nn.Linear(channels, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)]
    return nn.Sequential(nn.Flatten(), *layers)


def distil(
    method: Method, data: Plans, field: PlanField, steps: int, rate: float, seed: int
) -> nn.Module:
    """The method's student after `steps` updates, frozen."""
    draw = lambda count, generator: data.batch(field, count, generator)
    rates = {name: rate if name == "student" else OTHER_RATES for name in method.nets}
    fit(method, steps, 128, rates, seed, STUDENT, points=draw, fused=True)
    return frozen(method.nets["student"])

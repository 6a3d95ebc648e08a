"""The config file of a table: which rows, which budget, which seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from occdistill.build.schema import check
from occdistill.errors import UserError
from occdistill.types import Count, Whole

BUDGETS = ("updates", "evaluations")


@dataclass(frozen=True)
class Entry:
    """A method in the table.

    Attributes:
        title: as the table shows it.
        method: `dict(type=Class, ...)`.
        train: changes to the common training settings, such as its learning rate, which a table's
            search replaces.
        seeds: of its trainings; none: the table's.
    """

    title: str
    method: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[Whole, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A table's config file.

    Attributes:
        base: config with data, VAE, teacher and guidance.
        work_dir: where everything goes.
        rows: the methods, by a short name that is also their folder's.
        reference: the row that the others are compared with, and whose evaluations at `updates`
            are the second table's budget.
        updates: student updates of the first table.
        seeds: of training, of rows that don't say their own; fewer than three say little.
        train: common training settings, over the base config's `train_distill`.
        clips: how many validation clips to score, evenly spread; 0 for all.
        samples: futures per clip, for scores of probabilities.
        also: other data sets to score on, `DATAROOT` or `DATAROOT:SPLIT`; nothing is trained there.
        search: `lr` (candidates), `seed`, `options` (changes to the base config, so that the search
            sees no clip that the table is scored on), and, if other than the table's, `samples` and
            `clips`. Its updates are the table's. Empty: nothing is searched.
        steps: evaluations per forecast that students are scored with; 1 always is.
        options: changes to the base config for every run, `{"dotted.key": value}`.
        title: of the page.
    """

    base: str
    work_dir: str
    rows: Mapping[str, Entry]
    reference: str
    updates: Count
    seeds: tuple[Whole, ...] = (0, 1, 2)
    train: Mapping[str, Any] = field(default_factory=dict)
    clips: Whole = 0
    samples: Count = 4
    also: tuple[str, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Count, ...] = (1,)
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Table 1, measured"

    def run_options(self, key: str, updates: int) -> dict[str, Any]:
        """Changes to the base config that make a run of a row, `{"dotted.key": value}`."""
        row = self.rows[key]
        train = {
            "val_interval": max(1, updates // 4),
            "checkpoint_interval": max(1, updates // 4),
            "log_interval": max(1, updates // 30),
            "keep": 1,
            **self.train,
            **row.train,
            "iterations": updates,
        }
        return {
            "cache_dir": str(Path(self.work_dir) / "cache"),
            **self.options,
            **{f"train_distill.{name}": _whole(value) for name, value in train.items()},
            "method": {"_delete_": True, **row.method},
        }

    def seeds_of(self, key: str) -> tuple[int, ...]:
        """The training seeds of a row."""
        return tuple(self.rows[key].seeds) or self.seeds

    def folder(self, budget: str, key: str, seed: int) -> Path:
        """Where a run lives."""
        return Path(self.work_dir) / budget / key / f"seed{seed}"

    def runs(self, budget: str) -> list[tuple[str, int]]:
        """Rows and seeds to train, seeds outermost: an early look shows every row.

        The reference's runs under equal updates are its runs under equal evaluations.
        """
        keys = [k for k in self.rows if budget == "updates" or k != self.reference]
        seeds = dict.fromkeys(seed for key in keys for seed in self.seeds_of(key))
        return [(key, seed) for seed in seeds for key in keys if seed in self.seeds_of(key)]


def _whole(value: Any) -> Any:
    """A setting that replaces the base config's, whatever kind that is."""
    return {"_delete_": True, **value} if isinstance(value, Mapping) else value


def options_on(test: str) -> dict[str, str]:
    """Changes to the base config that score on another of `Plan.also`; none for ""."""
    root, _, split = test.partition(":")
    options = {"data.dataroot": root, "data.val_split": split}
    return {key: value for key, value in options.items() if value}


def load_plan(
    path: str | Path, work_dir: str | Path | None = None, also: Sequence[str] = ()
) -> Plan:
    """Read a table's config file.

    Args:
        path: a Python file that sets `Plan`'s attributes; see `configs/table1/`.
        work_dir: instead of the file's.
        also: data sets to score on, besides the file's.

    Raises:
        UserError: no such file, an unknown or missing key, a wrong value, a reference that is no
            row, no such measure, or a search that `search_plan` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no table config at {path}; see configs/table1/")
    values = {
        key: value
        for key, value in Config.fromfile(path)._to_lazy_dict().items()
        if not isinstance(value, LazyObject | LazyAttr)  # what the file imports
    }
    if work_dir is not None:
        values["work_dir"] = str(work_dir)
    check(values, Plan, path)
    rows = {key: Entry(**row) for key, row in values["rows"].items()}
    if values["reference"] not in rows:
        raise UserError(f"{path}: reference {values['reference']!r} is none of its rows")
    values["seeds"] = tuple(values.get("seeds", (0, 1, 2)))
    values["also"] = tuple(dict.fromkeys([*values.get("also", ()), *also]))
    plan = Plan(**{**values, "rows": rows})
    if plan.search:
        search_plan(plan)  # refused now rather than after the trainings
    return plan


def search_plan(plan: Plan, keys: Collection[str] | None = None) -> Plan:
    """The plan of the learning-rate search: each row once per candidate, all with equal updates.

    Every row gets the same candidates, updates and seed, and nothing else of a method is searched.
    The updates are the table's: the best rate for a few is too high for many.

    Args:
        plan: the table's.
        keys: rows to search for; default all.

    Raises:
        UserError: if the config has no search, or one that would see the table's own clips, or no
            such row.
    """
    wanted, known = {"lr", "options"}, {"lr", "options", "seed", "samples", "clips"}
    if not wanted <= plan.search.keys() <= known:
        raise UserError(
            f"the table's config needs search=dict({', '.join(sorted(wanted))}), and may say "
            f"{', '.join(sorted(known - wanted))}"
        )
    if not any(key.startswith("data.") for key in plan.search["options"]):
        raise UserError("search.options changes no data: it would tune on the table's own clips")
    if unknown := set(keys or ()) - plan.rows.keys():
        raise UserError(f"no row {min(unknown)!r}; there are {', '.join(plan.rows)}")
    rows = {
        f"{key}-lr{lr:g}": replace(row, train={**row.train, "lr": lr}, seeds=())
        for key, row in plan.rows.items()
        if key in (keys or plan.rows)
        for lr in plan.search["lr"]
    }
    folder = Path(plan.work_dir) / "search"
    return replace(
        plan,
        rows=rows,
        reference=next(iter(rows)),
        work_dir=str(folder),
        seeds=(plan.search.get("seed", 100),),
        samples=plan.search.get("samples", plan.samples),
        clips=plan.search.get("clips", plan.clips),
        also=(),
        options={**plan.options, **plan.search["options"], "cache_dir": str(folder / "cache")},
    )

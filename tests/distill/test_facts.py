"""What each class says it needs and costs: true of the method it builds, and in docs/methods.md."""

from itertools import product
from pathlib import Path

import pytest
import torch

from occdistill.build.schema import arguments
from occdistill.distill import COLUMNS, methods, needs_and_costs
from occdistill.distill.base import DistributionMatching
from occdistill.distill.diff_instruct import DiffInstructScore
from occdistill.distill.discriminator import Discriminator
from occdistill.distill.flow_generator_matching import FlowGeneratorMatching
from occdistill.flow.derivatives import Derivative
from occdistill.training.distill import overview
from tests.distill.test_contract import OPTIONS, SHAPE, make_batch, teacher


@pytest.mark.parametrize("name", methods())
def test_it_needs_what_it_says(name, monkeypatch):
    kind, taken = methods()[name], []
    derive = Derivative._derive
    monkeypatch.setattr(Derivative, "_derive", lambda *a, **k: taken.append(1) or derive(*a, **k))
    method = kind(teacher(), SHAPE, **OPTIONS.get(name, {}))
    says = dict(zip(COLUMNS, needs_and_costs(kind)))
    batch = make_batch()
    batch.x_1 = None
    needs_data = False
    for net, step in product(method.nets, (0, 10**6)):  # the ends of every curriculum
        try:
            method.losses(net, batch, step)
        except ValueError as error:
            assert "x_1" in str(error)
            needs_data = True
            method.losses(net, make_batch(), step)
    assert needs_data == says["true futures"].startswith("yes")
    assert bool(taken) == (says["derivative"] != "–")
    assert method.nets["student"].two_time == (says["two-time student"] == "yes")
    assert ("auxiliary" in method.nets) == (says["auxiliary"] != "–")
    has_one = any(isinstance(net, Discriminator) for net in method.modules())
    assert has_one == (says["discriminator"] != "–")
    standard = kind(
        teacher(), SHAPE, **{k: v for k, v in OPTIONS.get(name, {}).items() if k == "decoder"}
    )
    for net in ("auxiliary", "discriminator"):
        if net in method.nets:
            assert f" {standard.plan(0).count(net)} · " in says[COLUMNS[-1]]
    assert says[COLUMNS[-1]].count(" · ") == (len(method.nets) > 1)


# the others' costs are means over random intervals, or shared with an auxiliary
ALONE = [n for n, kind in methods().items() if not issubclass(kind, DistributionMatching)]


@pytest.mark.parametrize("name", [n for n in ALONE if n != "NoAuxiliary"])
def test_an_update_costs_about_what_it_says(name):
    """Evaluations counted are forward passes; a backward pass costs two more of them at most."""
    kind = methods()[name]
    small = {k: v for k, v in OPTIONS.get(name, {}).items() if k == "decoder"}
    method = kind(teacher(), SHAPE, **small)
    before = method.evaluations
    with torch.no_grad():
        method.losses("student", make_batch(), 10_000)
    passes = (method.evaluations - before) / 3
    assert passes <= kind.cost <= 3 * passes


def test_the_page_has_the_table_that_the_classes_give():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    assert overview() in page, (
        "stale: put what `python tools/train_distill.py --list-methods` prints there"
    )


def test_what_makes_a_row_that_row_cannot_be_given():
    assert "weight" not in arguments(DiffInstructScore) and "ratio" in arguments(DiffInstructScore)
    assert not {"alpha", "weight"} & arguments(FlowGeneratorMatching).keys()

"""What classes declare is what may be given: the checker on classes made for it, and on ours."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from torch import nn

import occdistill.autoencoder
import occdistill.distill
import occdistill.flow.networks
from occdistill.build.schema import RULES, arguments, check
from occdistill.errors import UserError
from occdistill.types import Count, Share


class Base:
    def __init__(self, depth: Count, share: Share = 0.5, hidden: nn.Module | None = None) -> None:
        pass


class Heir(Base):
    def __init__(self, *args, share: Share = 0.1, name: str = "", **kwargs) -> None:
        super().__init__(*args, share=share, **kwargs)


class Closed(Heir):
    def __init__(self, width: Count) -> None:
        super().__init__(1)


@dataclass
class Inner:
    size: Count
    place: Path = Path()


@dataclass
class Outer:
    inner: Inner
    many: Mapping[str, Inner] = field(default_factory=dict)
    either: Inner | None = None


def test_kwargs_are_those_of_the_bases_and_nothing_else_is():
    assert set(arguments(Heir)) == {"share", "name", "depth", "hidden"}
    assert set(arguments(Heir, "hidden", "depth")) == {"share", "name"}
    assert set(arguments(Closed)) == {"width"}


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"depht": 1}, "here has an unknown key a.depht; did you mean a.depth?"),
        ({"depth": 0}, "here: a.depth is 0; it should be greater than or equal to 1"),
        ({"share": 1.5}, "here: a.share is 1.5; it should be less than or equal to 1"),
        ({"hidden": 3}, "here: a.hidden is 3; it should be an instance of Module"),
    ],
)
def test_a_class_s_arguments_are_checked_up_its_bases(values, sentence):
    with pytest.raises(UserError) as error:
        check(values, Heir, "here", "a.")
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({}, "here lacks inner"),
        ({"inner": {}}, "here lacks inner.size"),
        ({"inner": 3}, "here: inner is 3; it should be a dict of size, place"),
        ({"inner": {"size": "big"}}, "here: inner.size is 'big'; it should be a valid integer"),
        (
            {"inner": {"size": 1}, "many": {"x": {"siez": 1}}},
            "many.x.siez; did you mean many.x.size",
        ),
        ({"inner": {"size": 1}, "either": {"size": 0}}, "here: either.size is 0; it should be"),
        ({"inner": {"size": 1, "place": 3}}, "here: inner.place is 3; it should be an instance"),
    ],
)
def test_dataclasses_are_checked_to_their_leaves(values, sentence):
    with pytest.raises(UserError) as error:
        check(values, Outer, "here")
    assert sentence in str(error.value)


def test_what_fits_passes():
    inner = {"size": 2, "place": "a/b"}
    check({"inner": inner, "many": {"x": inner}, "either": None}, Outer, "here")
    check({"depth": 3, "share": 1, "hidden": nn.Identity()}, Heir, "here")
    check({"inner": {"type": Inner, "size": 1}}, Outer, "here")


def buildable():
    for package in (occdistill.autoencoder, occdistill.distill, occdistill.flow.networks):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for kind in vars(importlib.import_module(found.name)).values():
                ours = inspect.isclass(kind) and kind.__module__ == found.name
                if ours and issubclass(kind, nn.Module):
                    yield kind


@pytest.mark.parametrize("kind", [*buildable()], ids=lambda kind: kind.__name__)
def test_everything_that_a_config_can_name_says_what_it_takes(kind):
    for name, annotation in arguments(kind).items():
        assert annotation is not Any, f"{kind.__name__}({name}) has no annotation"
        TypeAdapter(tuple[annotation], config=RULES)

"""Values of configs and options: a sentence that names the key, whatever they are."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from occdistill.build.builders import build_codec, build_method, build_network, build_vae
from occdistill.build.config import SCHEMA, load_config
from occdistill.build.options import Options, literal, out_folder
from occdistill.build.schema import check
from occdistill.build.settings import Settings
from occdistill.errors import UserError
from tests.tool import call

DEMO = "configs/demo.py"
NAN, INF = float("nan"), float("inf")
ANYTHING = [1j, b"bytes", object(), {"a": "b"}]
# by the type of what a shipped config says there; None is what leaves an option out
WRONG = {
    str: [3, 1.5, NAN, True, ["a"], *ANYTHING],
    bool: ["yes", 3, 0.5, NAN, [], *ANYTHING],
    int: ["ten", 1.5, NAN, INF, True, [1], -(10**9), *ANYTHING],
    float: ["small", NAN, INF, -INF, True, [1.0], -1e9, *ANYTHING],
    tuple: ["wide", 3, NAN, True, ["a"], [NAN], [-5], *ANYTHING],
    dict: ["text", 3, NAN, True, [1], 1j, object()],
}


def leaves(values, prefix=""):
    """Every key of a config, dotted, with its value."""
    for key, value in values.items():
        if key != "type":
            yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")


def kind(value):
    found = {list: tuple, Path: str}.get(type(value), type(value))
    return dict if isinstance(value, Mapping) else found


def with_value(config, key, value):
    """The top-level entry that `key` lies in, with another value there."""
    top, *below = key.split(".")
    if not below:
        return {top: value}
    entry = config._to_lazy_dict()[top]
    inner = entry
    for name in below[:-1]:
        inner = inner[name]
    inner[below[-1]] = value
    return {top: entry}


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_key_refuses_every_other_kind_of_value_by_name(path):
    config, tried = load_config(path), 0
    for key, value in leaves(config):
        for wrong in WRONG[kind(value)]:
            if key.endswith(".lr") and wrong == 3:  # one rate for all nets is a rate, too
                continue
            with pytest.raises(UserError) as error:
                check(with_value(config, key, wrong), SCHEMA, path)
                pytest.fail(f"{key} took {wrong!r}")
            said = str(error.value)
            assert key.split(".")[-1] in said and "\n" not in said, (key, wrong, said)
            tried += 1
    assert tried > 150


@pytest.mark.parametrize(
    "key, value",
    [
        ("train_distill.iterations", -5), ("method.ratio", -1), ("train_distill.ema", 2.0),
        ("sampler.temperature", NAN), ("method.ode_step", 0), ("method.ode_step", 1.5),
        ("method.ratio", 0), ("guidance", -1.0), ("train_distill.batch_size", 10**30),
        ("data.past", None), ("train_distill.lr", -1e-4), ("network.width", 0),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_as_the_config_is_read(key, value):
    with pytest.raises(UserError, match=f"{DEMO}: {key} is "):
        load_config(DEMO, {key: value})


@pytest.mark.parametrize(
    "key, build",
    [
        ("vae", lambda c: build_vae(c, weights=False)), ("network", build_network),
        ("conditioning", lambda c: build_codec(c, build_vae(c, weights=False))),
        ("method", lambda c: build_method(c, (6, 8, 24, 24), build_network(c))),
        ("guidance", lambda c: build_method(c, (6, 8, 24, 24), build_network(c))),
    ],
)  # fmt: skip
def test_a_part_that_is_missing_is_named(key, build):
    with pytest.raises(UserError, match=f"demo.py has no {key}: add {key}="):
        build(load_config(DEMO, {key: None}))


def test_data_that_a_config_does_not_describe_are_named(tmp_path):
    with pytest.raises(UserError, match="lacks data.dataroot"):
        load_config(DEMO, {"data": None})
    path = tmp_path / "part.py"
    path.write_text(
        "data = dict(dataroot='x', version='y', train_split='a', val_split='b', past=4)"
    )
    with pytest.raises(UserError, match="part.py lacks data.future"):
        load_config(path)


@pytest.mark.parametrize(
    "override", [{"vae.width": ()}, {"vae.channels": 10**9, "vae.grid_shape": (1, 1, 1)}]
)
def test_a_class_that_fails_to_be_built_is_a_sentence(override):
    with pytest.raises(UserError, match="the config's VAE can't be built"):
        build_vae(load_config(DEMO, override), weights=False)


def test_a_net_without_a_rate_is_named():
    settings = Settings(iterations=1, batch_size=1, lr={"student": 1e-3})
    assert settings.rate("student") == 1e-3
    with pytest.raises(UserError, match="lr has rates for student, but none for the net 'aux'"):
        settings.rate("aux")


# Options of the command line.


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={})
    return parser.parse_args(["--cfg-options", *arguments]).cfg_options


@pytest.mark.parametrize(
    "text, value",
    [
        ("/data/my world, 2nd copy", "/data/my world, 2nd copy"), ("data/a=b", "data/a=b"),
        ("3", 3), ("-5", -5), ("1e-4", 1e-4), ("true", True), ("False", False), ("none", None),
        ("(0,1)", (0, 1)), ("[0, 1]", [0, 1]), ("64,128", (64, 128)), ('"3"', "3"), ("'a b'", "a b"),
        ('{"student": 1e-4}', {"student": 1e-4}), ('["a b", null]', ["a b", None]), ("", ""),
        ("NaN-town", "NaN-town"), ("[" * 5000, "[" * 5000), ("9" * 5000, "9" * 5000), ("a\0b", "a\0b"),
        ("__import__('os')", "__import__('os')"),
    ],
)  # fmt: skip
def test_a_value_is_json_or_python_and_otherwise_text_as_it_stands(text, value):
    assert literal(text) == value and type(literal(text)) is type(value)
    assert parsed(f"a.b={text}") == {"a.b": value}


def test_options_add_up_and_need_a_key(capsys):
    assert parsed("a=1", "b=x y", "--cfg-options", "a=2", "c=") == {"a": 2, "b": "x y", "c": ""}
    for wrong in ("alone", "=3"):
        with pytest.raises(SystemExit):
            parsed(wrong)
        assert f"{wrong!r} is not KEY=VALUE" in capsys.readouterr().err


def test_a_path_with_spaces_arrives_whole(monkeypatch, capsys):
    place = "/data/my own, world"
    call(monkeypatch, "print_config", DEMO, "--cfg-options", f"data.dataroot={place}")
    assert json.dumps(place)[1:-1] in capsys.readouterr().out


# The place for results is tried before the work.


def test_the_place_for_results_is_tried_first(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    taken = str(tmp_path / "file" / "deeper")
    given = argparse.Namespace(out=None)
    assert out_folder(given, load_config(DEMO, {"work_dir": str(tmp_path / "new")})).is_dir()
    calls = [
        ("test", DEMO, "--out", taken), ("benchmark", DEMO, "a.pth", "--out", taken),
        ("realtime", DEMO, "a.pth", "--out", taken), ("study", "fields", "--out", taken),
        ("visualize", DEMO, "a.pth", "--out", f"{taken}/a.png"), ("bench", "--out", taken),
        ("browse_dataset", DEMO, "--out", taken), ("compare", "a.json", "--out", f"{taken}/a.json"),
        ("table1", "configs/table1/demo.py", "--out", taken),
    ]  # fmt: skip
    for name, *arguments in calls:
        with pytest.raises(
            UserError, match=rf"cannot write to {taken}\S* .*free some space or choose"
        ):
            call(monkeypatch, name, *arguments)

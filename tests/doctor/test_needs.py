"""What a config needs, and what the machine lacks for pictures."""

import sys
from pathlib import Path

import pytest

from occdistill.doctor import environment, system_packages
from occdistill.doctor.needs import check_config
from occdistill.visualization import open3d_scene
from tests.tool import call, load


def test_what_nuscenes_needs_and_nobody_has_yet(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    findings, root = check_config("configs/nus.py")
    found = {f.path: f for f in findings}
    assert root is None
    for path, blocked in (
        ("data/nuscenes", "score"),
        ("data/occfm/occfm_fut/vae.pth", "train_teacher"),
        ("data/occfm/occfm_fut/teacher.pth", "train_mfd"),
    ):
        assert found[path].level == "missing" and blocked in found[path].blocks
    assert "tools/import_occfm.py weights" in found["data/occfm/occfm_fut/teacher.pth"].remedy
    light = found["data/occfm/occfm_fut/light.pth"]
    assert light.level == "note" and "train_light.py" in light.remedy
    assert call(monkeypatch, "doctor", "--config", "configs/nus.py", "--no-render") == 1
    assert "missing  data/occfm/occfm_fut/teacher.pth" in capsys.readouterr().out


def test_the_demo_has_its_weights():
    findings, root = check_config("configs/demo.py")
    weights = {Path(f.path).stem: f for f in findings if f.path.endswith(".pth")}
    light = weights.pop("light_network")  # optional
    assert light.level == ("ok" if Path(light.path).is_file() else "note")
    assert len(weights) == 3 and all(f.level == "ok" for f in weights.values())
    assert root is None or root.is_dir()


def test_damage_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("data = dict(pats=3)\n")
    (finding,), _ = check_config(broken)
    assert finding.level == "damaged" and "did you mean data.past?" in finding.message


@pytest.mark.parametrize(
    "name, python, said",
    [
        ("spconv", (3, 12), "use Python 3.11 or older, then pip install spconv-cu120"),
        ("spconv", (3, 11), "pip install spconv-cu120"),
        ("open3d", (3, 13), "use Python 3.12 or older, then pip install open3d"),
        ("tqdm", (3, 13), "pip install tqdm"),
    ],
)
def test_what_has_no_wheel_for_this_python_needs_another(monkeypatch, name, python, said):
    monkeypatch.setattr(environment.sys, "version_info", (*python, 1))
    monkeypatch.setattr(environment, "_version", lambda package: None)
    assert environment._package(name, "something", True).remedy == said


def test_the_doctor_draws_as_pictures_are_drawn(monkeypatch):
    def fail(*_):
        raise open3d_scene.RenderError("no EGL here")

    monkeypatch.setattr(open3d_scene, "render", fail)
    monkeypatch.setattr(open3d_scene, "missing_packages", lambda: ["libegl1"])
    finding = environment._open3d()
    assert (finding.level, finding.remedy) == ("note", "python tools/system_packages.py")
    assert "no EGL here" in finding.message
    monkeypatch.setattr(open3d_scene, "missing_packages", list)
    assert environment._open3d().remedy == "draw with --style bev"
    monkeypatch.setattr(open3d_scene, "render", lambda *_: None)
    assert environment._open3d().level == "ok"


@pytest.fixture
def packages(monkeypatch):
    """Of the tool, on a machine that lacks a library; `ran` are the commands it runs."""
    module = system_packages
    monkeypatch.setattr(module, "ran", [], raising=False)
    monkeypatch.setattr(module, "missing_packages", lambda: ["libegl1"])
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)

    def pretend(command, **_):
        module.ran.append(command[1])
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(module.subprocess, "run", pretend)
    monkeypatch.setattr(sys, "argv", ["system_packages.py"])
    return module


def test_help_installs_nothing(packages, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["system_packages.py", "--help"])
    with pytest.raises(SystemExit):
        load("system_packages").main()
    assert not packages.ran and "--yes" in capsys.readouterr().out


@pytest.mark.parametrize("answer, ran", [("y", ["update", "install"]), ("", []), ("no", [])])
def test_root_is_asked_at_a_terminal(packages, monkeypatch, capsys, answer, ran):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: answer)
    load("system_packages").main()
    assert packages.ran == ran
    assert "apt-get install -y -qq --no-install-recommends libegl1" in capsys.readouterr().out


def test_others_are_told_what_to_type(packages, monkeypatch, capsys):
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    load("system_packages").main()
    assert not packages.ran and "sudo sh -c 'apt-get update" in capsys.readouterr().out

"""`make demo` calls the tools as a user would; the tools themselves are tested where they live."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from occdistill.build.config import load_config
from occdistill.errors import MAKE_WORLD, UserError
from tests.tool import TOOLS, load


@pytest.fixture
def demo(monkeypatch):
    """The tool's module; `calls` are the commands it would have run, `codes` what they return."""
    module = load("demo")
    module.calls, module.codes = [], {}

    def pretend(command, check):
        module.calls.append(["python", f"tools/{Path(command[1]).name}", *command[2:]])
        return SimpleNamespace(returncode=module.codes.get(Path(command[1]).stem, 0))

    monkeypatch.setattr(module.subprocess, "run", pretend)
    monkeypatch.setattr("sys.argv", ["demo.py", "configs/demo.py"])
    return module


def test_it_makes_the_world_that_its_config_reads_then_a_student_then_everything_of_it(demo):
    demo.main()
    names = [Path(call[1]).stem for call in demo.calls]
    rest = ["benchmark", "realtime", "visualize"]
    assert names == ["make_world", "train_mfd", "test", "test", *rest]
    assert all((TOOLS / f"{name}.py").is_file() for name in names)
    config = load_config("configs/demo.py")
    assert shlex.join(demo.calls[0]) == MAKE_WORLD and config.data.dataroot in MAKE_WORLD
    student = f"{config.work_dir}/mfd/student.pth"
    hist = demo.calls.pop(3)
    assert all(call[2:4] == ["configs/demo.py", student] for call in demo.calls[2:])
    assert load_config(hist[2]).conditioning.kind == "hist" and Path(hist[3]).is_file()
    assert load_config(hist[2]).data.dataroot == config.data.dataroot


def test_it_stops_where_a_tool_stops(demo):
    demo.codes["test"] = 2
    with pytest.raises(UserError, match="tools/test.py stopped with exit code 2"):
        demo.main()
    assert len(demo.calls) == 3

"""The check of a GPU, in parts that run without one."""

import json
import time

import pytest
import torch

from occdistill.errors import UserError
from occdistill.occfm.memory import update
from tests.tool import call, load

SMALL = dict(latent_shape=(4, 6, 6), past=3, future=2, trajectory_length=5, width=16)


without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_a_gpu
def test_without_a_gpu_it_says_so_and_makes_nothing(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no CUDA device: this is for a machine that has one"):
        call(monkeypatch, "gpu_check", "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_whole_update_is_ten_of_the_auxiliary_and_one_of_the_student():
    found = update(batch=1, dtype=None, device="cpu", repeats=1, **SMALL)
    # a student's sample and the auxiliary, ten times; a sample; and three fields along an interval
    in_the_integration = found["evaluations"] - (10 * 2 + 1)
    assert in_the_integration % 3 == 0 and 3 <= in_the_integration <= 3 * 50
    assert found["seconds"] > 0 and found["peak_mb"] > 0 and found["skipped"] == 0


def test_parts_run_with_their_output_their_verdict_and_an_end(tmp_path, capsys):
    check = load("gpu_check")
    late = time.monotonic() + 60
    good = check.carry_out("good", ["-c", "print('as it should be')"], late)
    assert good["passed"] and good["output"] == ["as it should be"] and good["exit_code"] == 0
    bad = check.carry_out("bad", ["-c", "import sys; sys.exit('out of memory')"], late)
    assert not bad["passed"] and bad["exit_code"] == 1 and bad["output"] == ["out of memory"]
    assert check.carry_out("doctor", ["-c", "exit(1)"], late)["passed"]
    slow = check.carry_out("slow", ["-c", "import time; time.sleep(60)"], time.monotonic() + 0.5)
    assert not slow["passed"] and slow["output"][-1] == "stopped: the time was up"
    assert "bad" in capsys.readouterr().out


def test_one_page_and_one_file_hold_what_was_found(monkeypatch, tmp_path, capsys):
    check = load("gpu_check")
    write = "import json, pathlib; pathlib.Path(r'{}').write_text(json.dumps(dict(seconds=2.5)))"
    made = {
        "update": ["-c", write.format(tmp_path / "update.json")],
        "timing": [
            "-c",
            f"import pathlib; pathlib.Path(r'{tmp_path / 'bench.md'}').write_text('|t|')",
        ],
        "tests": ["-c", "exit(3)"],
    }
    monkeypatch.setattr(check, "commands", lambda out, device: made)
    monkeypatch.setattr(check, "environment", lambda device: {"device": "a GPU", "torch": "2"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = type("Card", (), {"total_memory": 24 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--out", str(tmp_path)])
    (tmp_path / "bench.json").write_text("[1]")  # of an earlier run
    assert check.main() == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["update"] == {"seconds": 2.5} and "bench" not in found
    assert found["facts"]["memory_gib"] == 24.0 and found["parts"]["tests"]["exit_code"] == 3
    text = (tmp_path / "gpu_check.md").read_text()
    assert text.startswith("# a GPU\n") and "| tests | **failed**, exit code 3 |" in text
    assert "| update | passed |" in text and "|t|" in text


@without_a_gpu
def test_its_commands_are_ones_that_the_tools_take(monkeypatch, tmp_path):
    """Each stops where it finds no GPU; one that it couldn't parse would stop before."""
    made = load("gpu_check").commands(tmp_path, "cuda")
    assert list(made) == ["doctor", "golden vectors", "tests", "update", "timing"]
    for name in ("check_occfm", "bench"):
        (arguments,) = [words for words in made.values() if words[0].endswith(f"{name}.py")]
        tool = load(name)
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(UserError, match="no GPU for"):
            tool.main()

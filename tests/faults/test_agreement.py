"""Loading and the doctor say the same about every planted fault, and the page says it too."""

import re
import shutil

import pytest

from occdistill.data.occ3d import load_labels
from occdistill.data.voxelize import load_points
from occdistill.doctor import files
from occdistill.doctor.dataset import Doctor
from occdistill.errors import UserError
from tests.data.conftest import write
from tests.faults.rows import modules, rows_of
from tests.faults.table import BEGIN, END, HEAD, PAGE, cell

MODULES = {module: rows_of(module) for module in modules()}
EVERY = [row for rows in MODULES.values() for row in rows]
SCENES = [row for row in EVERY if row.meets == "load_index"]
FILES = [row for row in EVERY if row.call in (load_points, load_labels)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "world").root


@pytest.fixture
def world(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return shutil.copytree(whole, tmp_path / "world")


def refused(row, planted):
    with pytest.raises(UserError) as caught:
        row.call(planted)
    return str(caught.value)


@pytest.mark.parametrize("row", SCENES, ids=str)
def test_the_doctor_says_what_loading_says(row, world):
    sentence = refused(row, row.plant(world))
    told = [
        re.sub(r" \(and \d+ more of \d+ have faults\)|^the tables name ", "", found.message)
        for found in Doctor(world)()
        if found.problem
    ]
    sentence = re.sub(r" \(and \d+ more of \d+ have faults\)", "", sentence)
    assert any(message in sentence for message in told), (sentence, told)


@pytest.mark.parametrize("row", FILES, ids=str)
def test_the_doctor_says_of_a_file_what_its_reader_says(row, tmp_path):
    check = {load_points: files.check_cloud, load_labels: files.check_labels}[row.call]
    planted = row.plant(tmp_path)
    assert check(planted) == refused(row, planted)


def test_both_are_content_with_a_whole_data_set(world):
    assert not [found for found in Doctor(world, full=True)() if found.problem]


def test_the_page_has_every_row_and_no_other():
    """Each row's own test compares what is said with its pattern; this one, the page with it."""
    text = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    shown = [x for x in text.splitlines() if x.startswith("| ") and x not in HEAD]
    assert len(EVERY) >= 60
    assert len(shown) == len(EVERY), "python -m tests.faults.table writes the page anew"
    for row, line in zip(EVERY, shown):
        fault, meets, said, code = re.split(r"(?<!\\) \| ", line.strip("| "))
        assert (fault, meets, code) == (cell(row.fault), f"`{cell(row.meets)}`", str(row.code))
        plain = said.replace("\\|", "|")
        assert plain.endswith("…") or re.search(row.sentence, plain), (row.sentence, said)

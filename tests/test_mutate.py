"""The list of changes that `make mutate` tries: each can still be made."""

from tests.mutate import CHANGES, ROOT


def test_every_change_finds_its_text_once_and_its_tests():
    stale = [
        change for change in CHANGES if (ROOT / change.file).read_text().count(change.old) != 1
    ]
    assert not stale
    assert all((ROOT / test).is_file() for change in CHANGES for test in change.tests)
    assert len(CHANGES) > 400

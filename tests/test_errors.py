import pytest
from torch.utils.data import DataLoader, Dataset

from occdistill.errors import UserError, run


class Damaged(Dataset):
    """Labels of which one file can't be read, as `occdistill.data.clips` says it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        try:
            raise OSError("bad zip file")
        except OSError as error:
            raise UserError(
                f"labels {index}.npz are damaged ({error}): fetch them again"
            ) from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_process_is_the_same_sentence(workers, capsys):
    with pytest.raises(SystemExit) as stop:
        run(lambda: next(iter(DataLoader(Damaged(), num_workers=workers))))
    assert stop.value.code == 2
    expected = "error: labels 0.npz are damaged (bad zip file): fetch them again\n"
    assert capsys.readouterr().err == expected

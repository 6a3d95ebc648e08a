"""What a training that needs too much memory is told."""

import pytest

from occdistill.build.config import load_config
from occdistill.build.settings import PARTS
from occdistill.training.memory import less_memory


def told(path, part, processes=1, whole_batch=False, **changes):
    config = load_config(path, {f"train_{part}.{key}": value for key, value in changes.items()})
    settings = PARTS[f"train_{part}"](**config[f"train_{part}"])
    return less_memory(config, part, settings, whole_batch, processes)


def in_order(sentence, *parts):
    places = [sentence.index(part) for part in parts]
    return places == sorted(places)


def test_accumulation_first_then_recomputing_then_half_precision():
    said = told("configs/nus.py", "distill", amp=False)
    wanted = (
        "train_distill.accumulate=2, which",
        "network.recompute=True",
        "train_distill.amp=True",
    )
    assert in_order(said, *wanted, "a GPU with more memory") and "--resume" in said
    assert "batch_size" not in said and "amp" not in told("configs/nus.py", "distill")


@pytest.mark.parametrize(
    "processes, accumulate, wanted", [(1, 2, 4), (1, 4, 8), (2, 1, 2), (4, 1, 2), (1, 3, 4)]
)
def test_the_next_number_of_parts_divides_what_a_process_has(processes, accumulate, wanted):
    said = told("configs/nus.py", "distill", processes, accumulate=accumulate)
    assert f"train_distill.accumulate={wanted}," in said


def test_a_light_student_is_recomputed_and_not_its_teacher():
    said = told("configs/nus_light.py", "distill")
    assert " light_network.recompute=True" in said and " network.recompute" not in said


def test_nothing_is_advised_that_would_be_refused_or_is_done():
    last = told("configs/nus.py", "distill", processes=8)  # a sample each
    assert "accumulate" not in last and "batch_size" not in last
    whole = told("configs/nus_vae.py", "vae", whole_batch=True)  # which recomputes already
    assert "accumulate" not in whole and "recompute" not in whole
    assert "a smaller train_vae.batch_size" in whole
    assert "recompute" not in told("configs/demo.py", "distill")  # its network can't

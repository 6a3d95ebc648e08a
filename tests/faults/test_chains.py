"""Every chain of keyframes ends, stays in its scene and has as many members as the scene says."""

import re

import pytest

from occdistill.data.scenes import load_index
from occdistill.doctor.dataset import Doctor
from tests.faults.rows import Row, edit

VERSION = "v1.0-tiny"


def after(token, following):
    """Sample `token` is followed by another."""

    def change(samples):
        (sample,) = (s for s in samples if s["token"] == token)
        sample["next"] = following

    return edit("sample", change)


def owned(samples):
    """Samples name their scene, as nuScenes' do, and the third scene has the first one's name."""
    for sample in samples:
        sample["scene_token"] = f"scene-token-{sample['token'][6]}"


def foreign(samples):
    owned(samples)
    samples[3]["scene_token"] = "scene-token-2"


def count(number):
    return edit("scene", lambda scenes: scenes[0].update(nbr_samples=number))


def load(root):
    return load_index(root, VERSION, "train")


ROWS = [
    Row("a chain that comes back to its start", after("sample0-7", "sample0-0"), load,
        "scene-0001 in .* comes back to keyframe sample0-0; fetch the tables again"),
    Row("a keyframe that follows itself", after("sample0-4", "sample0-4"), load,
        "comes back to keyframe sample0-4"),
    Row("a chain that comes back to its middle", after("sample0-5", "sample0-2"), load,
        "comes back to keyframe sample0-2"),
    Row("a chain that runs on into a later scene", after("sample0-7", "sample1-0"), load,
        "scene-0001 .* lists 8 keyframes, but its chain in sample.json has 15"),
    Row("a chain that runs on into an earlier scene", after("sample1-6", "sample0-0"), load,
        "scene-0002 .* runs on into keyframe sample0-0 of scene scene-0001"),
    Row("a keyframe that belongs to another scene", edit("sample", foreign), load,
        "scene-0001 .* runs on into keyframe sample0-3 of another scene"),
    Row("a chain that ends early", after("sample0-4", ""), load, "lists 8 .* has 5"),
    Row("a scene that lists more", count(9), load, "lists 9 keyframes, but its chain .* has 8"),
    Row("a count that is text", count("8"), load, "lists 8 keyframes, but"),
    Row("a chain that names nobody", after("sample0-4", "lost"), load,
        "chains a keyframe 'lost' that sample.json doesn't have"),
    Row("a chain that names a list", after("sample0-4", ["a"]), load, r"keyframe \['a'\]"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_broken_chain_is_refused_and_the_doctor_says_the_same(row, world, capsys):
    row.check(world, capsys)
    told = [f.message for f in Doctor(world)() if f.area == "tables" and f.problem]
    words = row.sentence.rpartition(".* ")[2].removesuffix("; fetch the tables again")
    assert any(re.search(words, message) for message in told), told


def test_whole_chains_pass_both(world):
    assert [len(scene.keyframes) for scene in load(edit("sample", owned)(world))] == [8, 3]
    assert not [f for f in Doctor(world)() if f.area == "tables" and f.problem]

"""Tables as nuScenes' relatives have them: nested, in UTF-16, in other folders; all are read."""

import json
import shutil

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.scenes import load_index
from occdistill.doctor.dataset import Doctor
from occdistill.errors import UserError
from occdistill.untrusted import each_record

VERSION = "v1.0-tiny"


def same(root, version=VERSION):
    """As many keyframes at the same places as in the tables before, and the doctor content."""
    assert not [f for f in Doctor(root)() if f.problem], [f for f in Doctor(root)() if f.problem]
    scenes = load_index(root, version, "train")
    assert [len(scene.keyframes) for scene in scenes] == [8, 3]
    assert scenes[0].keyframes[7].ego_to_global[0, 3] == 614
    assert scenes[0].keyframes[7].lidarseg.endswith("data-l1-sample0-7_lidarseg.bin")


def rewrite(root, change=lambda records: records, encoding="utf-8", **options):
    for path in (root / VERSION).glob("*.json"):
        records = json.loads(path.read_text())
        path.write_bytes(json.dumps(change(records), **options).encode(encoding))


NESTED = {"autolabel": {"model": {"name": "a {brace}", "scores": [{"x": 1}, {"y": [2]}]}}}


@pytest.mark.parametrize("first", [True, False])
def test_records_with_nested_objects(world, first):
    rewrite(world, lambda rs: [NESTED | r if first else r | NESTED for r in rs])
    same(world)


def test_records_with_braces_and_quotes_in_text(world):
    rewrite(world, lambda rs: [{"note": '}, {"token": "x"}, \\'} | r for r in rs])
    same(world)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_other_encodings(world, encoding):
    rewrite(world, encoding=encoding)
    same(world)


@pytest.mark.parametrize("options", [{"indent": 4}, {"separators": (",", ":")}, {"indent": 0}])
def test_other_spacing(world, options):
    rewrite(world, **options)
    same(world)


def test_lyft_folders(world):
    (world / VERSION).rename(world / "v1.01-train")
    same(world, "v1.01-train")


def test_an_extra_folder_beside_whole_annotations(world):
    shutil.rmtree(world / VERSION)
    (world / "v1.0-test").mkdir()
    (world / "v1.0-test" / "category.json").write_text("[]")
    (world / "v1.0-mini").mkdir()
    (world / "v1.0-mini" / "scene.json").write_text("[]")
    assert not [f for f in Doctor(world)() if f.problem]
    assert len(load_index(world, "v1.0-trainval", "train")) == 2
    with pytest.raises(UserError, match="no table at .*sample.json"):
        load_index(world, "v1.0-mini", "train")


def test_a_test_split_without_labels(world):
    shutil.rmtree(world / "gts" / "scene-0003")
    splits = {"train": ["scene-0001"], "val": ["scene-0002"], "test": ["scene-0003"]}
    (world / "splits.json").write_text(json.dumps(splits))
    found = Doctor(world)()
    assert not [f for f in found if f.problem]
    assert any("1 scenes that are in no split but test: scene-0003" in f.message for f in found)
    assert len(ClipDataset(world, VERSION, "train", past=1)) > 0
    with pytest.raises(UserError, match="3 of 3 labels files are missing"):
        ClipDataset(world, VERSION, "test", past=1, future=0)


def test_annotations_without_a_test_split_or_with_one(world):
    shutil.rmtree(world / VERSION)
    (world / "splits.json").unlink()
    path = world / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"test_split": ["scene-0003"]}))
    assert [s.name for s in load_index(world, VERSION, "test")] == ["scene-0003"]


def test_files_in_a_blob_folder_are_pointed_at(world):
    blob = world / "v1.0-trainval01_blobs"
    blob.mkdir()
    (world / "samples").rename(blob / "samples")
    with pytest.raises(UserError, match=r"8 of 8 lidar .*move what is in .*01_blobs up into"):
        ClipDataset(world, VERSION, "train", past=1, past_from="lidar")
    (found,) = (f for f in Doctor(world)() if f.area == "blobs")
    assert found.path == str(blob) and "up into" in found.remedy


def test_a_scene_in_train_and_val_is_refused_by_both(world):
    (world / "splits.json").write_text('{"train": ["scene-0001"], "val": ["scene-0001"]}')
    with pytest.raises(UserError, match="scene-0001 into train and into val"):
        load_index(world, VERSION, "train")
    assert any("into train and into val" in f.message for f in Doctor(world)() if f.problem)


def test_long_tables_are_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("occdistill.untrusted._CHUNK", 100)
    records = [{"token": str(i), "text": "é" * (i % 50), "list": [i]} for i in range(100)]
    path = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-16"):
        path.write_bytes(json.dumps(records, ensure_ascii=False, indent=1).encode(encoding))
        assert list(each_record(path)) == records
        assert list(each_record(path, lambda text: pytest.fail("not flat"))) == records
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(ValueError, match="cut off"):
            list(each_record(path))


def test_flat_records_can_be_passed_over(tmp_path):
    records = [{"token": str(i), "key": i % 2 == 0} for i in range(10)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    kept = list(each_record(tmp_path / "a.json", lambda text: "false" in text))
    assert kept == records[::2]
    assert np.array_equal([int(r["token"]) for r in kept], np.arange(0, 10, 2))


@pytest.mark.parametrize("text", ["", "{}", "[1 2]", "[1,]", "[", "[1", "[{]", "nothing", "[,1]"])
def test_what_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):
        list(each_record(tmp_path / "a.json"))

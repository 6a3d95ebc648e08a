import json

import numpy as np
import pytest

from occdistill.errors import UserError
from occdistill.evaluation.evaluate import windows_of
from occdistill.evaluation.predictions import (
    Manifest,
    check_input,
    find_predictions,
    read_prediction,
    save_prediction,
)
from occdistill.evaluation.protocols import PROTOCOLS

SHAPE = (16, 16, 4)


@pytest.fixture
def windows(make_clips):
    return windows_of(make_clips([14, 12], past=1))


@pytest.fixture
def forecast(make_street):
    return make_street(np.random.default_rng(0), 6)


def fill(folder, windows, protocol, forecast):
    chosen = [w for w in windows if w.newest in protocol.windows(w.length)]
    return [save_prediction(folder, w.id, forecast) for w in chosen]


def test_own_layout_round_trip(tmp_path, windows, forecast):
    protocols = [PROTOCOLS["geniedrive"], PROTOCOLS["dome"]]
    paths = fill(tmp_path, windows, protocols[0], forecast)
    found = find_predictions(tmp_path, windows, protocols)
    assert sorted(found.values()) == sorted(paths) and len(paths) == 5 + 3
    np.testing.assert_array_equal(read_prediction(paths[0], 6, SHAPE)[0], forecast)


def test_samples_and_longer_outputs_are_understood(tmp_path, forecast):
    save_prediction(tmp_path, "s/a", np.stack([forecast, forecast]))
    assert read_prediction(tmp_path / "s" / "a.npz", 6, SHAPE).shape == (2, 6, *SHAPE)
    whole = np.concatenate([forecast[:4], forecast])[None].astype(np.int64)  # past and future
    np.savez(tmp_path / "0.npz", pred_occs=whole)
    np.testing.assert_array_equal(read_prediction(tmp_path / "0.npz", 6, SHAPE)[0], forecast)
    np.save(tmp_path / "1.npy", forecast)
    np.testing.assert_array_equal(read_prediction(tmp_path / "1.npy", 6, SHAPE)[0], forecast)


def test_numbered_files_count_the_first_protocol_s_windows(tmp_path, windows, forecast):
    for i in range(2):  # 14 - 12 windows of the first scene, none of the second
        np.savez(tmp_path / f"{i}.npz", pred=forecast)
    found = find_predictions(tmp_path, windows, [PROTOCOLS["occworld"]])
    assert [windows[i].newest for i in found] == [4, 5]
    assert [path.name for path in found.values()] == ["0.npz", "1.npz"]
    with pytest.raises(UserError, match="'occfm' have no prediction"):
        find_predictions(tmp_path, windows, [PROTOCOLS["occworld"], PROTOCOLS["occfm"]])


def test_kept_inputs_prove_the_numbering(tmp_path, make_clips, forecast):
    clips = make_clips([12])
    past = clips[0]["past"].numpy()
    np.savez(tmp_path / "0.npz", pred=forecast, input=past)
    check_input(tmp_path / "0.npz", past[-1])
    with pytest.raises(UserError, match="0.npz isn't this window"):
        check_input(tmp_path / "0.npz", clips[1]["past"].numpy()[-1])


def test_a_missing_clip_is_named(tmp_path, windows, forecast):
    paths = fill(tmp_path, windows, PROTOCOLS["dome"], forecast)
    paths[1].unlink()
    with pytest.raises(UserError, match="1 of the 2 windows .* scene-0001/1-3"):
        find_predictions(tmp_path, windows, [PROTOCOLS["dome"]])
    found = find_predictions(tmp_path, windows, [PROTOCOLS["dome"]], allow_missing=True)
    assert list(found.values()) == [paths[0]]
    paths[0].unlink()
    with pytest.raises(UserError, match="2 of the 2 windows"):
        find_predictions(tmp_path, windows, [PROTOCOLS["dome"]], allow_missing=True)
    with pytest.raises(UserError, match="no folder"):
        find_predictions(tmp_path / "nowhere", windows, [PROTOCOLS["dome"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda f: {"semantics": f[:, :8]}, r"\(6, 8, 16, 4\).*expected.*16, 16, 4"),
        (lambda f: {"semantics": f[:3]}, "expected.*F=6"),
        (lambda f: {"semantics": f.astype(float)}, "float64.*not logits"),
        (lambda f: {"semantics": np.where(f == 4, 200, f)}, "class id 200"),
        (lambda f: {"semantics": np.where(f == 17, 0, f + 1)}, "id 0 .*class order"),
        (lambda f: {"logits": f}, "holds .*logits.*expected 'semantics'"),
    ],
)
def test_wrong_content_is_a_sentence_that_names_the_file(tmp_path, forecast, content, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **content(forecast))
    with pytest.raises(UserError, match=message) as error:
        read_prediction(path, 6, SHAPE)
    assert str(path) in str(error.value)


def test_damaged_files_are_sentences(tmp_path, forecast):
    path = save_prediction(tmp_path, "s/a", forecast)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="a.npz"):
        read_prediction(path, 6, SHAPE)
    with pytest.raises(UserError, match=r"no prediction at .*b.npz"):
        read_prediction(tmp_path / "b.npz", 6, SHAPE)


def test_the_manifest_refuses_another_class_order(tmp_path):
    Manifest(model="m", nfe=1, conditioning="gt", crop=25.6, coarsen=2).save(tmp_path)
    assert Manifest.load(tmp_path).nfe == 1
    content = json.loads((tmp_path / "predictions.json").read_text())
    swapped = content["classes"][:]
    swapped[4], swapped[10] = "truck", "car"
    (tmp_path / "predictions.json").write_text(json.dumps(content | {"classes": swapped}))
    with pytest.raises(UserError, match="id 4 is 'truck', but Occ3D's id 4 is 'car'"):
        Manifest.load(tmp_path)
    (tmp_path / "predictions.json").write_text(json.dumps(content | {"modle": 1}))
    with pytest.raises(UserError, match="'modle'"):
        Manifest.load(tmp_path)

import numpy as np

from occdistill.evaluation.measures.conformal import Conformal, threshold


def test_threshold_by_hand():
    # 19 voxels: ⌈20 · 0.9⌉ = 18 must have at least τ votes
    assert threshold(np.array([1, 8, 10])) == 1
    assert threshold(np.array([0, 1, 18])) == 2
    assert threshold(np.array([2, 0, 17])) == 0


def test_sets_hold_a_new_scenes_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    measure = Conformal(1, 8)
    for scene in "abcd":  # the truth is one more draw of the same law
        p = rng.dirichlet(np.full(3, 0.3), 4000)
        draws = (rng.random((9, 4000, 1)) > p.cumsum(-1)).sum(-1).astype(np.uint8) + 4
        measure.update(scene, draws[:8, None], draws[8:])
    result = measure.result()
    assert 90 <= result["coverage"]["0.5s"] <= 100 and 1 < result["size"]["0.5s"] < 18


def test_one_scene_can_not_check_itself():
    measure = Conformal(1, 2)
    measure.update("a", np.full((2, 1, 8), 4, np.uint8), np.full((1, 8), 4, np.uint8))
    assert measure.result() is None

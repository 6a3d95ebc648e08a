"""Rays through hand-made voxel grids."""

import numpy as np
import pytest

from occdistill.data.raycast import cast_rays, observed_mask, visible_mask

ORIGIN, SIZE = (-1.0, -1.0, -1.0), 0.5
TO = ("entry", "exit")


def grid(*occupied):
    out = np.zeros((8, 8, 4), bool)
    for index in occupied:
        out[index] = True
    return out


def unit(*vector):
    vector = np.array(vector, float)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_axis_ray_hits_the_first_of_two_voxels_at_its_face(dtype):
    occupied = grid((4, 1, 1), (6, 1, 1)).astype(dtype)
    hits, distance = cast_rays(
        occupied, ORIGIN, SIZE, (-0.8, -0.3, -0.3), unit(1, 0, 0)[None], 99.0
    )
    assert hits.dtype == np.int32 and distance.dtype == np.float32
    assert hits.tolist() == [[4, 1, 1]]
    assert distance[0] == pytest.approx(1.8)  # face of voxel 4 is at x = 1.0


def test_ray_backwards_and_from_outside():
    occupied = grid((2, 3, 2))
    hits, distance = cast_rays(occupied, ORIGIN, SIZE, (10.0, 0.75, 0.25), [[-1.0, 0, 0]], 99.0)
    assert hits.tolist() == [[2, 3, 2]]
    assert distance[0] == pytest.approx(9.5)


def test_ray_that_misses_or_is_too_short_has_no_hit():
    occupied = grid((7, 1, 1))
    start = (-0.8, -0.3, -0.3)
    hits, distance = cast_rays(occupied, ORIGIN, SIZE, start, [[1.0, 0, 0], [-1.0, 0, 0]], 3.0)
    assert (hits == -1).all() and np.isinf(distance).all()
    hits, _ = cast_rays(occupied, ORIGIN, SIZE, start, [[1.0, 0, 0]], 3.4)
    assert hits.tolist() == [[7, 1, 1]]
    outside, _ = cast_rays(occupied, ORIGIN, SIZE, (0.0, 99.0, 0.0), [[1.0, 0, 0]], 999.0)
    assert (outside == -1).all()


def test_ray_that_starts_in_an_occupied_voxel_hits_it_at_once():
    hits, distance = cast_rays(grid((2, 2, 2)), ORIGIN, SIZE, (0.1, 0.2, 0.3), [[0, 0, 1.0]], 9.0)
    assert hits.tolist() == [[2, 2, 2]] and distance[0] == 0.0


def test_the_exit_is_where_the_ray_leaves_the_voxel_it_hits():
    # 0.8 m ahead and 0.6 m sideways per metre: x = 1.0 after 2.25 m (y is 1.05), x = 1.5 after
    # 2.875 m (y is 1.425), so the ray passes voxel (4, 4) from face to face.
    occupied, start, ray = grid((4, 4, 1)), (-0.8, -0.3, -0.3), unit(4, 3, 0)[None]
    hits, near = cast_rays(occupied, ORIGIN, SIZE, start, ray)
    _, far = cast_rays(occupied, ORIGIN, SIZE, start, ray, to="exit")
    assert hits.tolist() == [[4, 4, 1]]
    assert near[0] == pytest.approx(2.25) and far[0] == pytest.approx(2.875)
    # inside an occupied voxel a ray has no way in, but one out
    inside = (1.1, 1.1, -0.3)
    distances = [cast_rays(occupied, ORIGIN, SIZE, inside, ray, to=to)[1] for to in TO]
    assert distances == [0, pytest.approx(0.5)]
    missed = cast_rays(grid(), ORIGIN, SIZE, start, ray, to="exit")
    assert missed[0].tolist() == [[-1, -1, -1]] and np.isinf(missed[1]).all()


def test_random_rays_agree_with_fine_sampling():
    rng = np.random.default_rng(0)
    occupied = rng.random((8, 8, 4)) < 0.08
    occupied[3:5, 3:5, 1:3] = False
    start = np.array([1.03, 1.02, 0.01])
    rays = rng.normal(size=(300, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hits, distance = cast_rays(occupied, ORIGIN, SIZE, start, rays, 20.0)
    steps = np.arange(0.0, 6.0, 1e-3)
    for ray, hit, far in zip(rays, hits, distance):
        index = np.floor((start + steps[:, None] * ray - ORIGIN) / SIZE).astype(int)
        inside = ((index >= 0) & (index < occupied.shape)).all(1)
        solid = np.flatnonzero(inside & occupied[tuple(index.clip(0, (7, 7, 3)).T)])
        if solid.size == 0:
            # A corner thinner than a step may be hit.
            assert hit[0] == -1 or occupied[tuple(hit)]
        else:
            assert far <= steps[solid[0]] + 1e-6
            if far > steps[solid[0]] - 2e-3:
                assert hit.tolist() == index[solid[0]].tolist()


def observed(occupied, ends):
    """Seen from (-0.8, -0.3, -0.3), in metres as the rays below."""
    start, ends = ((np.array(x) - ORIGIN) / SIZE for x in ((-0.8, -0.3, -0.3), ends))
    return observed_mask(occupied.shape, start, ends)


def test_observed_voxels_are_those_up_to_the_endpoint():
    seen = observed(grid(), [[1.2, -0.3, -0.3]])
    assert seen.dtype == np.uint8
    assert np.argwhere(seen).tolist() == [[x, 1, 1] for x in range(5)]


def test_observed_ignores_what_stands_between_and_points_that_are_not_finite():
    ends = [[1.2, -0.3, -0.3], [np.nan, 0, 0], [np.inf, 0, 0]]
    seen = observed(grid((2, 1, 1)), ends)
    assert seen.sum() == 5


def test_observed_clips_rays_that_leave_the_grid():
    seen = observed(grid(), [[50.0, -0.3, -0.3]])
    assert np.argwhere(seen).tolist() == [[x, 1, 1] for x in range(8)]


def test_visible_voxels_end_at_the_first_occupied_one():
    seen = visible_mask(
        grid((3, 1, 1), (5, 1, 1)), ORIGIN, SIZE, (-0.8, -0.3, -0.3), [[1.0, 0, 0]], 99.0
    )
    assert np.argwhere(seen).tolist() == [[x, 1, 1] for x in range(4)]


def test_diagonal_ray_visits_face_neighbours_only():
    seen = visible_mask(grid(), ORIGIN, SIZE, (-0.9, -0.8, -0.7), unit(1, 1.1, 0.3)[None], 99.0)
    path = np.argwhere(seen)
    order = np.argsort(path.sum(1))
    assert (np.abs(np.diff(path[order], axis=0)).sum(1) == 1).all()

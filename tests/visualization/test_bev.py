import numpy as np

from occdistill.data.occ3d import FREE, PALETTE, Grid
from occdistill.visualization.bev import picture, topmost

GRID = Grid((10, 10, 4), 1.0, (-5.0, -5.0, 0.0))


def empty():
    return np.full(GRID.shape, FREE, np.uint8)


def hue(pixel):
    """The class whose colour, darkened, a pixel is closest to."""
    pixel = pixel / max(pixel.max(), 1)
    colours = PALETTE[:FREE] / np.maximum(PALETTE[:FREE].max(1, keepdims=True), 1)
    return int(np.abs(colours - pixel).sum(1).argmin())


def test_the_highest_voxel_of_a_column_shows():
    voxels = empty()
    voxels[3, 4, :2] = 11, 4
    classes, height = topmost(voxels)
    assert (classes[3, 4], height[3, 4]) == (4, 1)
    assert (classes[0, 0], height[0, 0]) == (FREE, -1)


def test_forward_is_up_and_left_is_left():
    voxels = empty()
    voxels[9, 9, 0] = 4  # far ahead, far left
    voxels[0, 0, 0] = 16  # behind, right
    drawn = picture(voxels, GRID, (100, 100), ego=False)
    assert hue(drawn[5, 5]) == 4
    assert hue(drawn[95, 95]) == 16
    assert (drawn[5, 95] == 255).all() and (drawn[50, 50] == 255).all()


def test_higher_is_lighter():
    low, high = empty(), empty()
    low[5, 5, 0], high[5, 5, 3] = 16, 16
    low, high = (picture(v, GRID, (10, 10), ego=False)[4, 4].astype(int) for v in (low, high))
    assert high[1] > low[1]


def test_a_map_is_fitted_into_any_size_and_shows_the_ego():
    for size in ((120, 60), (60, 120)):
        drawn = picture(empty(), GRID, size)
        assert drawn.shape == (60, 60, 3)  # a square map, and no margin beside it
        assert (drawn[20:30, 28:32] < 100).any()

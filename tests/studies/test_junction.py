import numpy as np
import torch

from occdistill.data.occ3d import FREE, Grid
from occdistill.studies.junction import occupancy

GRID = Grid((6, 4, 2), 0.5, (-1.5, -1.0, 0.0))


def test_futures_of_different_plans_are_laid_over_each_other_where_the_car_is_now():
    ways = torch.eye(4).repeat(2, 1, 1)
    ways[1, 0, 3] = 1.0  # the second plan ends two voxels ahead
    futures = torch.full((2, 6, 4, 2), FREE, dtype=torch.uint8)
    futures[:, :, :, 0] = 11  # the road fills nothing above it
    futures[0, 4, 1, 1] = futures[1, 2, 1, 1] = 4  # one car, seen from both
    futures[1, 3, 2, 1] = 7  # a pedestrian whom only the second future has
    share = occupancy(futures, ways, GRID)
    wanted = np.zeros((6, 4))
    wanted[4, 1], wanted[5, 2] = 1.0, 0.5
    np.testing.assert_array_equal(share, wanted)
    ways[0, 0, 3] = 1.0  # what lies behind is in nobody's grid any more
    gone = np.isnan(occupancy(futures, ways, GRID))
    assert gone[:2].all() and not gone[2:].any()

import pytest
import torch

from occdistill.data.occ3d import FREE, Grid
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition

GRID = Grid((8, 8, 2), 1.0, (-4.0, -4.0, 0.0))


class OneHotVAE(torch.nn.Module):
    """Latents that are the voxel classes themselves, so that conditions can be read by eye."""

    scale = 2.0

    def encode(self, voxels):
        from occdistill.autoencoder.vae import Gaussian

        mean = voxels.float().permute(0, 3, 1, 2)
        return Gaussian(mean, torch.zeros_like(mean))

    def decode(self, z):
        return z.permute(0, 2, 3, 1).round().to(torch.uint8)


def shift(metres):
    pose = torch.eye(4)
    pose[0, 3] = metres
    return pose


@pytest.fixture
def clip():
    past = torch.full((1, 2, 8, 8, 2), FREE, dtype=torch.uint8)
    past[0, 1, 5, 3, 0] = 4  # newest frame: a car at x = 1.5 m
    past[0, 0, 6, 3, 0] = 4  # one frame before, one metre back: the same place
    poses = torch.stack([shift(-1.0), shift(0.0), shift(1.0), shift(2.0)])[None]
    trajectory = torch.tensor([[[0.0, 1.0]] * 4])
    return past, poses, trajectory


def test_aligned_voxels_show_the_past_from_each_future_frame(clip):
    past, poses, _ = clip
    codec = Codec(OneHotVAE(), GRID, future=2, align=(0, 1))
    seen = codec.aligned_voxels(past, poses)
    assert seen.shape == (1, 2, 2, 8, 8, 2)
    for frame, x in ((0, 4), (1, 3)):  # the ego drives on, the car comes nearer
        for source in (0, 1):
            assert (seen[0, frame, source] == 4).nonzero().tolist() == [[x, 3, 0]]


def test_history_extrapolates_and_hides_future_poses_and_steps(clip):
    past, poses, trajectory = clip
    codec = Codec(OneHotVAE(), GRID, future=2, align=(0,), conditioning="hist")
    wrong = poses.clone()
    wrong[:, 2:] = shift(50.0)  # the truth, which a history model must not see
    a = codec.condition(past, poses, trajectory)
    b = codec.condition(past, wrong, trajectory)
    assert torch.equal(a.aligned, b.aligned)
    assert a.trajectory.shape == (1, 1, 2)
    assert codec.conditioning_class == "none"


@pytest.mark.parametrize(
    "kind, entries, class_", [("gt", 4, "gt"), ("hist", 1, "none"), ("hist+1", 2, "hist+1")]
)
def test_a_conditioning_class_says_what_is_shown_of_the_trajectory(clip, kind, entries, class_):
    past, poses, trajectory = clip
    codec = Codec(OneHotVAE(), GRID, future=2, align=(0,), conditioning=kind)
    assert codec.conditioning_class == class_
    assert codec.condition(past, poses, trajectory).trajectory.shape[1] == entries
    wrong = poses.clone()
    wrong[:, 2:] = shift(50.0)
    same = torch.equal(codec.aligned_voxels(past, poses), codec.aligned_voxels(past, wrong))
    assert same == (kind != "gt")


def test_scale_is_applied_once_each_way(clip):
    past, poses, trajectory = clip
    codec = Codec(OneHotVAE(), GRID, future=2, align=(0,))
    condition = codec.condition(past, poses, trajectory)
    assert condition.past.max() == FREE * 2.0
    assert torch.equal(codec.decode(condition.past[0]), past[0])


def test_null_and_dropout_zero_frames_and_keep_the_trajectory():
    c = Condition(torch.ones(2, 1, 1, 1, 1), torch.ones(2, 1, 1, 1, 1), torch.ones(2, 3, 2))
    dropped = c.dropped(torch.tensor([True, False]))
    assert dropped.past.flatten().tolist() == dropped.aligned.flatten().tolist() == [1, 0]
    assert not c.null().past.any() and not c.null().aligned.any()
    assert torch.equal(dropped.trajectory, c.trajectory)
    both = Condition.cat([c, c.null()])
    assert both.batch_size == 4
    assert both.index(slice(2, 4)).past.sum() == 0
    assert c.repeat(3).past.shape[0] == 6


def test_carried_objects_take_the_newest_aligned_frame_and_no_other():
    past = torch.full((1, 3, 8, 8, 2), FREE, dtype=torch.uint8)
    for frame, x in enumerate((1, 2, 3)):
        past[0, frame, x : x + 2, 3, 0] = 4  # a car at one metre a frame; the ego stands
    poses = torch.eye(4).repeat(1, 5, 1, 1)
    plain, carried = (
        Codec(OneHotVAE(), GRID, future=2, align=(1, 0), carry=carry) for carry in (False, True)
    )
    still, moved = plain.aligned_voxels(past, poses), carried.aligned_voxels(past, poses)
    assert torch.equal(still[:, :, 0], moved[:, :, 0])
    for frame in (0, 1):
        assert (moved[0, frame, 1] == 4).nonzero()[:, 0].tolist() == [4 + frame, 5 + frame]
        assert (still[0, frame, 1] == 4).nonzero()[:, 0].tolist() == [3, 4]
    with pytest.raises(ValueError, match="align must hold 0"):
        Codec(OneHotVAE(), GRID, align=(1,), carry=True)

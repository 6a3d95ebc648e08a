import pytest
import torch

from occdistill.errors import UserError
from occdistill.runtime.forecaster import Forecaster, disagreement
from tests.runtime.fakes import ToNewest, codec, drive, street


def clip(batch=2, past=3, future=2):
    voxels = torch.stack([street(past, seed) for seed in range(batch)])
    poses = torch.from_numpy(drive(past + future, speed=0.0)).float().expand(batch, -1, -1, -1)
    return voxels, poses, torch.zeros(batch, past + future, 2)


@pytest.mark.parametrize("nfe", [1, 4])
def test_one_call_runs_encode_sampler_and_decode(nfe):
    field = ToNewest()
    forecaster = Forecaster(codec(), field, nfe=nfe)
    past, poses, trajectory = clip()
    future = forecaster(past, poses, trajectory=trajectory)
    assert future.dtype == torch.uint8
    assert torch.equal(future, past[:, -1:].expand_as(future))  # what the field leads to
    assert field.evaluations == [2] * nfe


def test_guidance_evaluates_both_branches_in_one_launch():
    field = ToNewest()
    forecaster = Forecaster(codec(), field, nfe=3, guidance=2.0)
    forecaster(*clip()[:2])
    assert field.evaluations == [4] * 3


def test_guidance_moves_away_from_the_null_condition():
    past, poses, trajectory = clip()
    past = past.clamp(max=8)
    # null leads to 0 and the condition to c, so scale 2 leads to 2c
    future = Forecaster(codec(), ToNewest(), guidance=2.0)(past, poses, trajectory=trajectory)
    assert torch.equal(future, (2 * past[:, -1:]).expand_as(future))


def test_several_samples_share_one_encoding():
    base = codec()
    forecaster = Forecaster(base, ToNewest())
    past, poses, trajectory = clip()
    futures = forecaster(past, poses, trajectory=trajectory, samples=5)
    assert futures.shape == (2, 5, 2, *past.shape[2:])
    assert base.vae.encoded == 2 * 3
    assert torch.equal(futures[1, 4, 0], past[1, -1])  # samples stay with their clip


def test_samples_differ_where_noise_remains_and_repeat_with_the_seed():
    class Still(ToNewest):
        def forward(self, x_t, t, condition):
            return 4 * torch.ones_like(x_t)

    forecaster = Forecaster(codec(), Still())
    past, poses, trajectory = clip()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return forecaster(past, poses, trajectory=trajectory, samples=2, generator=generator)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1)[:, 0], draw(1)[:, 1])


def test_condition_is_the_codecs_own():
    base = codec(align=(0, 1), conditioning="gt")
    past, poses, trajectory = clip()
    poses = torch.from_numpy(drive(5)).float().expand(2, -1, -1, -1)
    ours = Forecaster(base, ToNewest()).condition(past, poses, trajectory)
    codecs = base.condition(past, poses, trajectory)
    for name in ("past", "aligned", "trajectory"):
        assert torch.equal(getattr(ours, name), getattr(codecs, name))


def test_disagreement_is_the_share_of_voxels_that_differ():
    class OneOff(ToNewest):
        def forward(self, x_t, t, condition):
            v = super().forward(x_t, t, condition)
            v[:, :, 0, 0, 0] += 0.5  # one voxel in 128 lands one class further (or clamps)
            return v

    past, poses, trajectory = clip()
    past = past.clamp(max=16)
    a, b = Forecaster(codec(), ToNewest()), Forecaster(codec(), OneOff())
    assert disagreement(a, a, past, poses, trajectory) == 0
    assert disagreement(a, b, past, poses, trajectory) == pytest.approx(1 / 128)


def test_lower_precision_keeps_the_interface():
    past, poses, trajectory = clip()
    forecaster = Forecaster(codec(), ToNewest(), dtype=torch.bfloat16)
    assert forecaster(past, poses, trajectory=trajectory).dtype == torch.uint8
    assert forecaster.encode(past[0]).dtype == torch.float32


def test_a_missing_gpu_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            Forecaster(codec(), ToNewest(), device="cuda")


def test_another_number_of_evaluations_shares_the_networks():
    field = ToNewest()
    one = Forecaster(codec(), field, nfe=1)
    five = one.with_nfe(5)
    assert torch.equal(one(*clip()[:2]), five(*clip()[:2]))
    assert len(field.evaluations) == 1 + 5
    assert (one.nfe, five.nfe) == (1, 5)


def test_temperature_scales_the_noise_that_a_forecast_starts_from(small_networks):
    codec, network, clip = small_networks
    cold, half, plain = (Forecaster(codec, network, temperature=s) for s in (0.0, 0.5, 1.0))
    condition = plain.condition(*clip)
    a, b = plain.noise(1), plain.noise(1)
    assert torch.equal(cold.generate(condition, a), cold.generate(condition, b))
    assert torch.equal(half.generate(condition, a), plain.generate(condition, 0.5 * a))
    assert not torch.equal(plain.generate(condition, a), plain.generate(condition, b))


def test_tensors_that_are_here_already_are_not_copied():
    x = torch.zeros(3)
    assert Forecaster(codec(), ToNewest()).here(x) is x


def test_a_network_and_a_codec_that_disagree_about_aligned_frames_are_refused(small_networks):
    base, network, _ = small_networks
    base.align = ()
    with pytest.raises(UserError, match="takes 1 aligned frames, but conditioning.align gives 0"):
        Forecaster(base, network)

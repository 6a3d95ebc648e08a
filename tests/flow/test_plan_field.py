import pytest
import torch

from occdistill.distill.flow_map import decoupled, two_time
from occdistill.errors import UserError
from occdistill.flow.networks.plan import PlanField, motion


def make(**options):
    torch.manual_seed(0)
    return PlanField(future=4, steps=2, width=32, **options)


def inputs(batch=3):
    g = torch.Generator().manual_seed(1)
    past = torch.randn(batch, 2, 3, generator=g)
    return torch.randn(batch, 4, 3, 1, 1, generator=g), torch.rand(batch, generator=g), past


def test_scaling_comes_back_and_gives_what_the_plans_have_over_the_last_step_unit_size():
    net, (x, _, past) = make(), inputs(500)
    plans = past[:, -1:] + torch.tensor([3.0, 0.5, 0.1]) * x[..., 0, 0]
    net.fit_scales(past, plans)
    scaled = net.scaled(plans, past)
    torch.testing.assert_close(scaled.square().mean(0), torch.ones(4, 3, 1, 1))
    torch.testing.assert_close(net.plans(scaled, past), plans)
    again = make()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.plans(scaled, past), plans)


def test_the_motion_and_the_scene_reach_the_output_and_samples_do_not_mix():
    net, (x, t, past) = make(scene=(8, 6, 10)), inputs()
    latents = torch.randn(3, 8, 6, 10)
    v = net(x, t, motion(past, latents))
    assert v.shape == x.shape
    assert not torch.allclose(net(x, t, motion(past + 1, latents)), v)
    changed = latents.clone()
    changed[1] += 1
    other = net(x, t, motion(past, changed))
    torch.testing.assert_close(other[[0, 2]], v[[0, 2]])
    assert not torch.allclose(other[1], v[1])


def test_both_ways_to_tell_the_end_start_as_the_network():
    net, (x, t, past) = make(), inputs()
    v, r = net(x, t, motion(past)), torch.ones(3)
    torch.testing.assert_close(two_time(net)(x, t, motion(past), r=r), v)
    late = decoupled(net)
    torch.testing.assert_close(late(x, t, motion(past), r=t), v)
    assert not torch.allclose(late(x, t, motion(past), r=r), v)


def test_another_past_is_refused():
    net, (x, t, past) = make(), inputs()
    with pytest.raises(UserError, match=r"takes 2 past steps of three numbers, not \(1, 3\)"):
        net(x, t, motion(past[:, :1]))

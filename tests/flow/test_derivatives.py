import pytest
import torch

from occdistill.distill.flow_map import two_time
from occdistill.flow.derivatives import Derivative
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition
from tests.flow.test_small_network import inputs
from tests.flow_map import GaussianFlowMap
from tests.gaussian import GaussianField, make_batch

KINDS = [Derivative("jvp"), Derivative("difference", step=1e-5), Derivative("jvp", chunk=3)]


def gaussian_points():
    x = torch.linspace(-2, 3, 7, dtype=torch.float64).view(7, 1, 1, 1, 1)
    t = torch.tensor([0.0, 0.0, 0.2, 0.4, 0.6, 0.1, 0.3], dtype=torch.float64)
    r = torch.tensor([1.0, 0.5, 0.9, 0.4 + 1e-7, 1.0, 0.3, 0.8], dtype=torch.float64)
    return x, t, r, make_batch(7).condition


@pytest.mark.parametrize("derivative", KINDS, ids=str)
def test_the_exact_flow_map_obeys_the_backward_and_forward_identities(derivative):
    """`u = v(x_t, t) + (r - t) Dt u = v(x_r, r) - (r - t) Dr u`."""
    x, t, r, c = gaussian_points()
    u_net, v_net = GaussianFlowMap(1.0, 0.7).double(), GaussianField(1.0, 0.7).double()
    u, v = u_net(x, t, c, r=r), v_net(x, t, c)
    gap = (r - t).view(-1, 1, 1, 1, 1)
    backward = v + gap * derivative.total(u_net, x, t, r, c, v)
    forward = v_net(x + gap * u, r, c) - gap * derivative.end(u_net, x, t, r, c)
    torch.testing.assert_close(backward, u, atol=2e-5, rtol=0)
    torch.testing.assert_close(forward, u, atol=2e-5, rtol=0)
    if derivative.kind == "jvp":
        torch.testing.assert_close(backward, u, atol=1e-12, rtol=0)


def trained_looking_network():
    torch.manual_seed(0)
    net = two_time(SpaceTimeUNet((8, 4, 4), past=2, future=3, align=2, trajectory=5, width=16))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net


def test_differences_agree_with_forward_mode_through_attention():
    net = trained_looking_network()
    x, _, c = inputs(4)
    t, r = torch.tensor([0.0, 0.2, 0.5, 0.7]), torch.tensor([1.0, 0.9, 0.5, 0.8])
    v = torch.randn_like(x)
    jvp, difference = Derivative("jvp"), Derivative("difference", chunk=2)
    for exact, close in (
        (jvp.total(net, x, t, r, c, v), difference.total(net, x, t, r, c, v)),
        (jvp.end(net, x, t, r, c), difference.end(net, x, t, r, c)),
    ):
        assert not exact.requires_grad
        assert (close - exact).norm() < 0.01 * exact.norm()


def test_occfms_network_and_its_fast_clock():
    """Through its own attention layout, with a clock of 1000 t: why the step must be so small."""
    torch.manual_seed(0)
    net = two_time(OccFMTransition((4, 8, 8), past=2, future=2, trajectory_length=2, width=16))
    torch.nn.init.normal_(net.end_clock[2].weight, std=0.1)
    x, v = torch.randn(2, 2, 2, 4, 8, 8).unbind()
    c = Condition(torch.randn_like(x), trajectory=torch.zeros(2, 2, 2))
    t, r = torch.tensor([0.2, 0.5]), torch.tensor([0.9, 0.8])
    exact = Derivative("jvp").total(net, x, t, r, c, v)
    error = {
        step: float((Derivative("difference", step=step).total(net, x, t, r, c, v) - exact).norm())
        for step in (5e-3, 1e-4)
    }
    assert error[1e-4] < 0.02 * exact.norm()
    assert error[5e-3] > 10 * error[1e-4]


def test_the_error_of_differences_falls_with_the_square_of_the_step():
    net = trained_looking_network().double()
    x, _, c = inputs(1)
    x, c = x.double(), c.to(torch.float64)
    t, r = torch.tensor([0.4], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    exact = Derivative("jvp").end(net, x, t, r, c)
    errors = [
        (Derivative("difference", step=h).end(net, x, t, r, c) - exact).norm() for h in (2e-3, 1e-3)
    ]
    assert (errors[0] / errors[1]).item() == pytest.approx(4, rel=0.1)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="exact"):
        Derivative("exact")


@pytest.mark.parametrize("derivative", KINDS, ids=str)
def test_the_exact_flow_map_obeys_the_second_order_identity(derivative):
    """`u = ½[v(x_t, t) + v(x_r, r)] - ½ (r - t)² Dt Dr u`; the first two are `total` and `end`."""
    x, t, r, c = gaussian_points()
    u_net, v_net = GaussianFlowMap(1.0, 0.7).double(), GaussianField(1.0, 0.7).double()
    u, v = u_net(x, t, c, r=r), v_net(x, t, c)
    gap = (r - t).view(-1, 1, 1, 1, 1)
    d_t, d_r, d_tr = derivative.mixed(u_net, x, t, r, c, v)
    torch.testing.assert_close(d_t, derivative.total(u_net, x, t, r, c, v))
    torch.testing.assert_close(d_r, derivative.end(u_net, x, t, r, c))
    found = (v + v_net(x + gap * u, r, c)) / 2 - gap**2 / 2 * d_tr
    tolerance = 1e-12 if derivative.kind == "jvp" else 1e-2  # one-sided at the ends
    torch.testing.assert_close(found, u, atol=tolerance, rtol=0)


def test_nested_forward_mode_agrees_with_differences_through_attention():
    net = trained_looking_network().double()
    x, _, c = inputs(4)
    x, c = x.double(), c.to(torch.float64)
    t, r = (
        torch.tensor(q, dtype=torch.float64) for q in ([0.1, 0.2, 0.5, 0.7], [0.9, 0.9, 0.5, 0.8])
    )
    v = torch.randn_like(x)
    exact = Derivative("jvp", chunk=3).mixed(net, x, t, r, c, v)
    close = Derivative("difference", mixed_step=1e-4).mixed(net, x, t, r, c, v)
    assert not exact[2].requires_grad
    for one, other in zip(exact, close):
        assert (one - other).norm() < 0.02 * one.norm()


def test_nested_forward_mode_through_occfms_network():
    """Its fast clock leaves second differences no room, so the outer derivative alone is one."""
    torch.manual_seed(0)
    net = OccFMTransition((4, 4, 4), past=2, future=2, trajectory_length=3, width=16, two_time=True)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    c = Condition(torch.randn(2, 2, 4, 4, 4), None, torch.randn(2, 3, 2))
    x, v = torch.randn(2, 2, 2, 4, 4, 4)
    t, r, h = torch.tensor([0.1, 0.4]), torch.tensor([0.9, 0.5]), 1e-4
    jvp = Derivative("jvp")
    d_t, d_r, d_tr = jvp.mixed(net, x, t, r, c, v)
    later, earlier = (jvp.end(net, x + s * v, t + s, r, c) for s in (h, -h))
    torch.testing.assert_close(d_t, jvp.total(net, x, t, r, c, v), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(d_r, jvp.end(net, x, t, r, c), rtol=1e-4, atol=1e-6)
    assert ((later - earlier) / (2 * h) - d_tr).norm() < 0.02 * d_tr.norm()


def test_second_differences_ask_for_no_step_that_runs_backwards():
    x, t, r, c = gaussian_points()
    asked = []

    def field(x, t, condition, r):
        asked.append((t, r))
        return x * expand(t, x) * expand(r, x)

    found = Derivative("difference", mixed_step=0.3).mixed(field, x, t, r, c, torch.zeros_like(x))
    assert all((t >= 0).all() and (t <= r + 1e-12).all() and (r <= 1).all() for t, r in asked)
    torch.testing.assert_close(found[2], x, atol=1e-6, rtol=0)  # exact for any step

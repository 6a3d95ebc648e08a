import torch

from occdistill.flow.networks.small import SpaceTimeUNet, gaussian_velocity
from occdistill.latents.condition import Condition
from tests.gaussian import GaussianField


def make(**options):
    torch.manual_seed(0)
    return SpaceTimeUNet((8, 4, 4), past=2, future=3, align=2, trajectory=5, width=16, **options)


def inputs(batch=2):
    c = Condition(torch.randn(batch, 2, 8, 4, 4), torch.randn(batch, 3, 16, 4, 4))
    c.trajectory = torch.randn(batch, 5, 2)
    return torch.randn(batch, 3, 8, 4, 4), torch.rand(batch), c


def test_starts_as_the_gaussian_flow_around_the_aligned_past():
    x, t, c = inputs(1)
    field = GaussianField(0.0, 0.7)
    m = c.aligned[:, :, :8]
    expected = field(x - t * m, t, None) + m  # a Gaussian of mean m is the centred one, moved
    torch.testing.assert_close(make(prior_std=0.7)(x, t, c), expected)


def test_mean_and_spread_are_the_last_layers_to_choose():
    x, t, c = inputs(1)
    net = make(prior_std=0.7)
    with torch.no_grad():
        net.conv_out.bias[:8] = 0.3
        net.conv_out.bias[8:] = torch.tensor(0.5).log()
    m = c.aligned[:, :, :8] + 0.3
    torch.testing.assert_close(net(x, t, c), GaussianField(0.0, 0.35)(x - t * m, t, None) + m)


def test_without_spread_one_step_from_anywhere_lands_on_the_mean():
    x, mean, t = torch.randn(2, 3, 8, 4, 4), torch.randn(2, 3, 8, 4, 4), torch.tensor([0.0, 0.6])
    v = gaussian_velocity(x, t, mean, torch.full_like(mean, 1e-4))
    torch.testing.assert_close(x + (1 - t).view(-1, 1, 1, 1, 1) * v, mean, atol=1e-4, rtol=1e-4)


def test_every_input_reaches_the_output():
    net = make()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, t, c = inputs()
    tensors = [x, t, c.past, c.aligned, c.trajectory]
    for tensor in tensors:
        tensor.requires_grad_()
    net(x, t, c).square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors)
    x.grad = None
    net(x, t, c)[:, 0].sum().backward()
    assert (x.grad[:, 2].abs().sum() > 0).all()  # frames talk to each other


def test_a_fresh_end_clock_changes_nothing():
    one, two = make(), make(two_time=True)
    missing = two.load_state_dict(one.state_dict(), strict=False)
    assert all(key.startswith("end_clock") for key in missing.missing_keys)
    x, t, c = inputs()
    assert torch.equal(one(x, t, c), two(x, t, c, r=torch.ones(2)))


def test_samples_of_a_batch_do_not_mix():
    net = make()
    torch.nn.init.normal_(net.conv_out.weight)
    x, t, c = inputs(3)
    together = net(x, t, c)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], c.index(slice(i, i + 1))) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)

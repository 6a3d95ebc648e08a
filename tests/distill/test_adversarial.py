"""ADD, LADD and APT on two Gaussians, where their gradients are closed forms."""

import pytest
import torch

from occdistill.distill.add import ADD
from occdistill.distill.adversarial import Adversarial
from occdistill.distill.apt import APT
from occdistill.distill.base import only_grad
from occdistill.distill.discriminator import Head, levels_of, tapped
from occdistill.distill.ladd import LADD
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.path import TimeLaw
from occdistill.latents.condition import Condition
from tests.gaussian import SHIFT, BulkDraws, GaussianField, make_batch
from tests.plane import (
    BOTH,
    LINE,
    PLANE,
    Linear,
    Ratio,
    batch_of,
    build,
    close,
    numbers,
    quadrature,
    slope,
    spread,
    student_gradient,
)

# ------------------------------------------------------------------ ADD


@BOTH
@pytest.mark.parametrize("anchor, c", [("flat", lambda t: 1 + 0 * t), ("signal", lambda t: t**2)])
def test_adds_anchor_is_score_distillation(case, anchor, c):
    """`dL/da = 2 a E[c (1 - t)² / S_t²] > 0` always, `dL/db = 2 (b - m) E[c (1 - t)² / S_t²]`:
    the mean is drawn to the guided teacher's, the spread to nothing (METHODS §4, §21)."""
    m, s, a, b = numbers(case)
    method = build(ADD, case, anchor=anchor)
    found = student_gradient(method, case, lambda x: method.distillation(method.generate(x), x))
    pull = quadrature(lambda t: 2 * c(t) * (1 - t) ** 2 / spread(t, s) ** 2, method.times)
    close(found, torch.stack([a * pull, (b - m) * pull]), rtol=0.02, atol=0.01)


def test_add_adds_its_parts_up_and_pulls_towards_what_looks_real():
    """At t = 1 the velocity is the sample itself, so that the hinge's gradient is -slope."""
    case = PLANE
    losses = {
        w: build(ADD, case, Linear(0.3), anchor_weight=w).losses("student", batch_of(case, 500), 0)
        for w in (0.0, 2.5)
    }
    assert losses[2.5].logs["gap"] > 0.1
    torch.testing.assert_close(losses[0.0].total, losses[0.0].logs["generator"])
    torch.testing.assert_close(losses[2.5].total - losses[0.0].total, 2.5 * losses[2.5].logs["gap"])
    method = build(ADD, case, Linear(0.3), anchor_weight=0.0)
    found = student_gradient(method, case)
    close(found, torch.tensor([[0.0, 0.0], [-0.3, -0.3]]), rtol=1e-3, atol=0.01)


def test_adds_discriminator_sees_clean_futures_and_r1_is_the_squared_slope():
    """h = w x: the hinge's slope gradient is `b - m` at w = 0, R1 is w² for every element."""
    for case in (LINE, PLANE):
        m, _, _, b = numbers(case)
        method = build(ADD, case, Linear(1e-3), r1_weight=0.0)
        loss = method.losses("discriminator", batch_of(case), 0)
        head = method.nets["discriminator"].heads[0]
        (found,) = torch.autograd.grad(loss.total, head.slope)
        assert found.item() == pytest.approx((b - m).mean().item(), abs=0.02)

        head.slope.data.fill_(0.2)
        bare = method.losses("discriminator", batch_of(case, 100), 0)
        method.r1_weight = 3.0
        loss = method.losses("discriminator", batch_of(case, 100), 0)
        assert "r1" not in bare.logs
        assert loss.logs["r1"].item() == pytest.approx(0.04 * len(case["m"]))
        torch.testing.assert_close(loss.total - bare.total, 3 * loss.logs["r1"])
        (with_r1,) = torch.autograd.grad(loss.total, head.slope)
        (without,) = torch.autograd.grad(bare.total, head.slope)
        assert (with_r1 - without).item() == pytest.approx(3 * 2 * 0.2 * len(case["m"]), rel=1e-4)


@BOTH
def test_add_starts_from_noised_futures_too(case):
    """`x̂ = x_s + (1 - s) N(x_s)` with N = (a - 1) x + b is affine in x_s, whose law is known."""
    m, s, a, b = numbers(case)
    method = build(ADD, case, starts=(0.5,))
    found = method.generate(batch_of(case)).flatten(1)
    gain = 1 + 0.5 * (a - 1)
    close(found.mean(0), gain * 0.5 * m + 0.5 * b, rtol=0, atol=0.01)
    close(found.std(0), gain * spread(0.5, s), rtol=0.02, atol=0)
    both = build(ADD, case, starts=(0.0, 0.5)).generate(batch_of(case)).flatten(1)
    close(both.mean(0), (b + gain * 0.5 * m + 0.5 * b) / 2, rtol=0, atol=0.02)


# ------------------------------------------------------------------ LADD


@BOTH
@pytest.mark.parametrize("t", [0.3, 0.8])
def test_ladds_gradient_with_the_exact_logit_is_the_kl_gradient(case, t):
    """`d/d(a, b) KL(q_t || p_t)`, to the guided teacher; METHODS §20 and §22."""
    m, s, a, b = numbers(case)
    method = build(LADD, case, Ratio(case, t), gan_times=dict(low=t, high=t))
    real, fake = spread(t, s) ** 2, spread(t, a) ** 2
    exact = torch.stack([t**2 * a * (1 / real - 1 / fake), t**2 * (b - m) / real])
    close(student_gradient(method, case), exact, rtol=0.03, atol=0.01)


@BOTH
def test_ladds_gradient_vanishes_where_student_and_teacher_agree(case):
    case = {**case, "a": case["s"], "b": case["m"]}
    for gan in ("hinge", "logistic"):
        method = build(LADD, case, Ratio(case, 0.4), gan=gan, gan_times=dict(low=0.4, high=0.4))
        close(
            student_gradient(method, case, count=5000),
            torch.zeros(2, len(case["m"])),
            atol=1e-4,
            rtol=0,
        )


@BOTH
@pytest.mark.parametrize("gan, share", [("hinge", 1.0), ("logistic", 0.5)])
@pytest.mark.parametrize("real", ["teacher", "data"])
def test_ladds_discriminator_tells_noised_guided_samples_from_noised_students(
    case, gan, share, real
):
    """Where h = 0 both losses are linear: `dL/dslope = share (E v(x̂_t) - E v(real_t))`, and the
    mean of v moves by k_t t for every unit of the clean mean. Unguided samples would be off."""
    m, s, _, b = numbers(case)
    t = 0.6
    method = build(LADD, case, gan=gan, real=real, gan_times=dict(low=t, high=t))
    loss = method.losses("discriminator", batch_of(case), 0)
    (found,) = torch.autograd.grad(loss.total, method.nets["discriminator"].heads[0].slope)
    expected = share * (slope(t, s) * t * (b - m)).mean().item()
    assert found.item() == pytest.approx(expected, abs=0.01)


def test_ladds_times_are_its_own_for_every_sample():
    """The velocity of a clean prediction would be constant; here it must vary with the draw of t."""
    case, law = LINE, TimeLaw(mean=-1.0)
    m, s, _, b = numbers(case)
    method = build(LADD, case)
    loss = method.losses("discriminator", batch_of(case), 0)
    (found,) = torch.autograd.grad(loss.total, method.nets["discriminator"].heads[0].slope)
    expected = quadrature(lambda t: slope(t, s) * t * (b - m), law).mean().item()
    assert found.item() == pytest.approx(expected, abs=0.01)


def test_ladds_real_side_is_noise_of_its_own():
    """Teacher samples don't share the student's noise: they are independent of x̂."""
    method = build(LADD, LINE)
    batch = batch_of(LINE, 50_000)
    real, fake = method.real_futures(batch), method.generate(batch)
    both = torch.stack([real.flatten(), fake.flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.02


# ------------------------------------------------------------------ APT


@BOTH
def test_apts_gradient_is_of_clean_futures_at_random_times(case):
    """h = w v(x̂, t), so that `dL/db = -E[sigmoid(-h) w k_t]` with x̂ = a z + b itself, not noised."""
    m, s, a, b = numbers(case)
    method = build(APT, case, Linear(0.5))
    draws = BulkDraws(400_000, 5)
    z, t = draws.normal(1).double(), method.gan_times.times(draws)[:, None].double()
    own, k = m - SHIFT, slope(t, s)
    h = 0.5 * (own + k * (a * z + b - t * own))
    pull = -torch.sigmoid(-h) * 0.5 * k
    exact = torch.stack([(pull * z).mean(0), pull.mean(0)])
    close(student_gradient(method, case), exact, rtol=0.02, atol=0.005)


@BOTH
def test_approximated_r1_is_the_squared_slope_of_a_linear_discriminator(case):
    """`s² E[(w k_t)²]`, averaged over the elements (METHODS §23)."""
    s = torch.tensor(case["s"], dtype=torch.float64)
    method = build(APT, case, Linear(0.5), r1_std=0.1)
    loss = method.losses("discriminator", batch_of(case), 0)
    expected = quadrature(lambda t: (0.1 * 0.5 * slope(t, s)) ** 2, method.gan_times).mean()
    assert loss.logs["r1"].item() == pytest.approx(expected.item(), rel=0.02)
    torch.testing.assert_close(loss.total, loss.logs["discriminator"] + 100 * loss.logs["r1"])
    # R1 is quadratic in the slope, through both of its ends; the trunk is reached too
    net = method.nets["discriminator"]
    (with_r1,) = torch.autograd.grad(loss.total, net.heads[0].slope, retain_graph=True)
    method.r1_weight = 0.0
    bare = method.losses("discriminator", batch_of(case), 0).total
    (without,) = torch.autograd.grad(bare, net.heads[0].slope)
    torch.testing.assert_close(with_r1 - without, 100 * 2 * loss.logs["r1"] / 0.5)
    (trunk,) = torch.autograd.grad(loss.total, net.flow.std)
    assert (trunk != 0).all()


@BOTH
def test_apts_discriminator_tells_data_from_students(case):
    m, s, _, b = numbers(case)
    method = build(APT, case, r1_weight=0.0)
    loss = method.losses("discriminator", batch_of(case), 0)
    (found,) = torch.autograd.grad(loss.total, method.nets["discriminator"].heads[0].slope)
    expected = 0.5 * quadrature(lambda t: slope(t, s) * (b - m), method.gan_times).mean().item()
    assert found.item() == pytest.approx(expected, abs=0.02)


def test_apts_discriminator_is_a_network_of_its_own():
    method = build(APT, LINE)
    assert method.nets["discriminator"].flow is not method.teacher
    assert all(p.requires_grad for p in method.nets["discriminator"].parameters())
    before = method.evaluations
    method.losses("student", batch_of(LINE, 8), 0)
    assert method.evaluations - before == 8 * 2  # student, discriminator


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("cls", [ADD, LADD, APT])
def test_each_step_reaches_its_own_net_only(cls):
    method = build(cls, PLANE, Linear(0.5))
    assert method.plan(0) == method.plan(9) == ("discriminator", "student")
    assert build(cls, PLANE, ratio=3).plan(0) == ("discriminator",) * 3 + ("student",)
    method.losses("discriminator", batch_of(PLANE, 64), 0).total.backward()
    assert method.nets["student"].a.grad is None  # its samples are given, not made for this
    for name in method.nets:
        method.zero_grad()
        with only_grad(method.nets, name):
            method.losses(name, batch_of(PLANE, 64), 0).total.backward()
        reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached and all(n.startswith(f"nets.{name}.") for n in reached)


@pytest.mark.parametrize("cls", [ADD, LADD, APT])
def test_discriminator_learns_which_side_is_real(cls):
    """And says so in its log: real futures are the higher ones here, and v rises with x at t = 1."""
    case = dict(m=[1.5], s=[0.5], a=[0.5], b=[-1.5])
    method = build(cls, case, r1_weight=0.01, gan_times=dict(low=0.9, high=0.9))
    optimiser = torch.optim.SGD(method.nets["discriminator"].heads.parameters(), lr=0.2)
    for step in range(10):
        optimiser.zero_grad()
        loss = method.losses("discriminator", batch_of(case, 512, step), step)
        loss.total.backward()
        optimiser.step()
    assert method.nets["discriminator"].heads[0].slope > 0.1
    assert loss.logs["discriminator_right"] > 0.9


DEFAULTS = [
    (ADD, "gan", "hinge", "ADD, Eq. 3"),
    (ADD, "anchor_weight", 2.5, "ADD, Sec. 4"),
    (ADD, "r1_weight", 1e-5, "ADD, Sec. 4"),
    (ADD, "starts", (0.0,), "ours: one step"),
    (ADD, "real", "data", "ADD, Fig. 2; not the teacher's prediction, as a survey has it"),
    (ADD, "gan_times", TimeLaw("uniform", low=1.0, high=1.0), "clean"),
    (LADD, "gan", "hinge", "LADD, Sec. 3"),
    (LADD, "real", "teacher", "LADD, Sec. 3: synthetic data"),
    (LADD, "real_steps", 10, "OccFM's sampler"),
    (LADD, "gan_times", TimeLaw(mean=-1.0), "LADD: logit-normal, m = 1 where noise is at t = 1"),
    (LADD, "r1_weight", 0.0, "LADD: none"),
    (APT, "gan", "logistic", "APT, Eq. 2"),
    (APT, "r1_weight", 100.0, "APT, Sec. 3.4"),
    (APT, "r1_std", 0.1, "APT, Sec. 3.4: video"),
    (APT, "gan_times", TimeLaw("uniform"), "APT: timestep ensemble"),
    (APT, "ratio", 1, "one to one"),
]


@pytest.mark.parametrize("cls, attribute, value", [row[:3] for row in DEFAULTS])
def test_default(cls, attribute, value):
    assert getattr(build(cls, LINE), attribute) == value


@pytest.mark.parametrize(
    "cls, options, sentence",
    [
        (LADD, dict(gan="wasserstein"), "'logistic' or 'hinge', not 'wasserstein'"),
        (LADD, dict(real="student"), "'data' or 'teacher'"),
        (LADD, dict(ratio=0), "ratio must be a whole number"),
        (LADD, dict(real_steps=0.5), "real_steps must be a whole number"),
        (APT, dict(r1_weight=-1.0), "r1_weight must"),
        (APT, dict(r1_std=0.0), "r1_std must"),
        (ADD, dict(starts=()), "starts must"),
        (ADD, dict(starts=(0.0, 1.0)), "starts must"),
        (ADD, dict(anchor="sds"), "anchor must"),
        (ADD, dict(anchor_weight=-0.1), "anchor_weight must"),
    ],
)
def test_bad_arguments_are_refused(cls, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(cls, LINE, **options)


def test_without_data_only_synthetic_training_works():
    for cls in (ADD, APT):
        with pytest.raises(ValueError, match="x_1"):
            build(cls, LINE).losses("discriminator", make_batch(4), 0)
    build(LADD, LINE).losses("discriminator", make_batch(4), 0)
    with pytest.raises(KeyError, match="auxiliary"):
        build(LADD, LINE).losses("auxiliary", make_batch(4), 0)


def test_what_is_shared_is_no_method():
    with pytest.raises(TypeError, match="make_discriminator"):
        build(Adversarial, LINE)


def test_both_networks_have_heads_at_every_level():
    """Half the resolution in the middle, and the order in which the network computes them."""
    small = SpaceTimeUNet(
        (8, 8, 8), past=2, future=3, align=1, trajectory=5, width=16, blocks=(1, 2, 1)
    )
    full = OccFMTransition((4, 8, 8), past=2, future=3, trajectory_length=5, width=16)
    past, trajectory = torch.randn(2, 2, 8, 8, 8), torch.zeros(2, 5, 2)
    cases = (
        (small, 8, Condition(past, torch.randn(2, 3, 8, 8, 8), trajectory), 3),
        (full, 4, Condition(past[:, :, :4], trajectory=trajectory), 5),
    )
    sizes = {small: [8, 4, 2, 4, 8], full: [8, 4, 4, 4, 8]}
    widths = {small: [16, 32, 64, 32, 16], full: [32, 64, 64, 32, 16]}
    for net, channels, condition, frames in cases:
        taps = levels_of(net)
        with torch.no_grad(), tapped(net, taps) as outputs:
            net(torch.randn(2, 3, channels, 8, 8), torch.rand(2), condition)
        volumes = [tap.volume(x, 2) for tap, x in zip(taps, outputs)]
        assert [tap.channels for tap in taps] == widths[net]
        assert [v.shape for v in volumes] == [
            (2, w, frames, n, n) for w, n in zip(widths[net], sizes[net])
        ]
        assert all(Head(tap.channels)(v).shape[0] == 2 for tap, v in zip(taps, volumes))
    with pytest.raises(TypeError, match="taps="):
        levels_of(GaussianField(0, 1))

"""DiffRatio and f-distill with the exact log ratio, against the divergences themselves."""

import pytest
import torch

from occdistill.distill.base import only_grad
from occdistill.distill.diff_ratio import DiffRatio
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.f_distill import FDistill
from occdistill.distill.losses import DIVERGENCES
from occdistill.flow.path import TimeLaw
from tests.plane import (
    LINE,
    PLANE,
    Linear,
    Ratio,
    batch_of,
    build,
    close,
    numbers,
    slope,
    spread,
    student_gradient,
)

# f(q / p) of `E_p f`, up to what integrates to a constant
F = {
    "reverse_kl": lambda r: r * r.log(),
    "forward_kl": lambda r: -r.log(),
    "jensen_shannon": lambda r: r * r.log() - (1 + r) * ((1 + r) / 2).log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
}
# a student wide enough that E_q (p / q)² is finite, or Monte Carlo would never end
WIDE = dict(m=[-0.5, 2.0], s=[0.5, 0.4], a=[1.0, 0.6], b=[0.3, 1.5])
T = 0.5
FIXED = dict(low=T, high=T)


def exact(case, divergence, t):
    """`d/d(a, b) E_p f(q_t / p_t)` for every element, by a sum over a grid."""
    m, s, a, b = numbers(case)
    a, b = a.requires_grad_(), b.requires_grad_()
    x = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    real, fake = (torch.distributions.Normal(t * q, spread(t, w)) for q, w in ((m, s), (b, a)))
    log_p, log_q = real.log_prob(x), fake.log_prob(x)
    total = (log_p.exp() * F[divergence]((log_q - log_p).exp())).sum() * (x[1, 0] - x[0, 0])
    return torch.stack(torch.autograd.grad(total, (a, b)))


def test_every_divergence_is_tested():
    assert set(F) == set(DIVERGENCES)


@pytest.mark.parametrize("divergence", F)
@pytest.mark.parametrize("case", [LINE, WIDE], ids=["line", "plane"])
def test_diff_ratio_descends_its_divergence_to_the_real_law(case, divergence):
    t = 0.4 if case is LINE else T
    method = build(
        DiffRatio, case, Ratio(case, t), divergence=divergence, gan_times=dict(low=t, high=t)
    )
    found = student_gradient(method, case, count=200_000)
    close(found, exact(case, divergence, t), rtol=0.05, atol=0.01)


def test_diff_ratio_is_the_kl_gradient_at_every_time():
    """Its times vary: with `l = w v(x_t, t)` the pull is `-E[w t k_t]` on b (t from the chain)."""
    s = torch.tensor(PLANE["s"], dtype=torch.float64)
    method = build(DiffRatio, PLANE, Linear(0.5))
    u = (torch.arange(4001, dtype=torch.float64)[:, None] + 0.5) / 4001
    pull = -(0.5 * u * slope(u, s)).mean(0)
    close(student_gradient(method, PLANE)[1], pull, rtol=0.03, atol=0.01)


def test_diff_ratio_rests_where_the_laws_agree():
    case = {**PLANE, "a": PLANE["s"], "b": PLANE["m"]}
    for divergence in DIVERGENCES:
        method = build(DiffRatio, case, Ratio(case, T), divergence=divergence, gan_times=FIXED)
        found = student_gradient(method, case, count=5000)
        assert method.losses("student", batch_of(case, 100), 0).logs["log_ratio"].abs() < 1e-5
        # E_q[h grad l] is 0 draw by draw, since l is 0 everywhere
        close(found, torch.zeros(2, 2), rtol=0, atol=1e-4)


def test_diff_ratios_log_is_minus_the_divergence():
    m, s, a, b = numbers(PLANE)
    method = build(DiffRatio, PLANE, Ratio(PLANE, T), gan_times=FIXED)
    found = method.losses("student", batch_of(PLANE), 0).logs["log_ratio"].item()
    real, fake = (torch.distributions.Normal(T * q, spread(T, w)) for q, w in ((m, s), (b, a)))
    kl = torch.distributions.kl_divergence(fake, real).mean().item()
    assert found == pytest.approx(-kl, rel=0.02)


@pytest.mark.parametrize("real", ["data", "teacher"])
def test_ratio_learns_the_log_ratio(real):
    """The logistic loss rests there: with the exact ratio plus a constant, its gradient pulls back."""
    for offset, sign in ((0.0, 0), (0.5, 1), (-0.5, -1)):
        head = Ratio(LINE, T)
        head.offset = torch.nn.Parameter(torch.tensor(offset))
        head.register_forward_hook(lambda head, _args, out: out + head.offset)
        method = build(DiffRatio, LINE, head, real=real, gan_times=FIXED)
        loss = method.losses("discriminator", batch_of(LINE), 0)
        (found,) = torch.autograd.grad(loss.total, head.offset)
        assert found.item() == pytest.approx(0, abs=0.01) if sign == 0 else found * sign > 0.05


def test_diff_ratio_steps_reach_their_own_nets():
    method = build(DiffRatio, PLANE, Linear(0.5))
    assert method.plan(4) == ("discriminator", "student")
    assert method.gan_times == TimeLaw("uniform") and method.real == "data"
    assert method.nets["discriminator"].flow is not method.teacher
    for name in method.nets:
        method.zero_grad()
        with only_grad(method.nets, name):
            method.losses(name, batch_of(PLANE, 64), 0).total.backward()
        reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached and all(n.startswith(f"nets.{name}.") for n in reached)


@pytest.mark.parametrize("divergence", F)
@pytest.mark.parametrize("case", [LINE, PLANE], ids=["line", "plane"])
def test_f_distill_weighs_dmd2s_gradient_clip_by_clip(case, divergence):
    """`mean(h g z) / mean h` with h of the clip's mean log ratio, all in closed form."""
    count, (m, s, a, b) = 20_000, numbers(case)
    method = build(
        FDistill, case, Ratio(case, T), divergence=divergence, times=FIXED, disc_on="teacher"
    )
    found = student_gradient(
        method, case, lambda batch: method.matching(method.generate(batch), batch).total, count
    )
    draws = batch_of(case, count).draws
    z = draws.normal(1, len(m), 1, 1).flatten(1).double()
    draws.normal(1)  # times, all of them T
    x_1 = a * z + b
    x_t = T * x_1 + (1 - T) * draws.normal(1, len(m), 1, 1).flatten(1).double()
    v_T, v_A = (q + slope(T, w) * (x_t - T * q) for q, w in ((m, s), (b, a)))
    error = (x_1 - x_t - (1 - T) * v_T).abs().mean(1, keepdim=True)
    real, fake = (torch.distributions.Normal(T * q, spread(T, w)) for q, w in ((m, s), (b, a)))
    ratio = (real.log_prob(x_t) - fake.log_prob(x_t)).mean(1, keepdim=True).exp()
    h = {
        "reverse_kl": 1 + 0 * ratio,
        "forward_kl": ratio,
        "jensen_shannon": ratio / (1 + ratio),
        "jeffreys": 1 + ratio,
    }[divergence]
    g = h / h.mean() * (1 - T) * (v_A - v_T) / error
    close(found, torch.stack([(g * z).mean(0), g.mean(0)]), rtol=2e-3, atol=1e-3)


def test_f_distill_with_the_reverse_divergence_is_dmd2_and_rests_at_the_teacher():
    options = dict(times=FIXED, disc_on="teacher")
    plain = build(DMD2, PLANE, Linear(0.5), **options)
    same = build(FDistill, PLANE, Linear(0.5), divergence="reverse_kl", **options)
    losses = [m.losses("student", batch_of(PLANE, 100), 0).total for m in (plain, same)]
    assert losses[0] == losses[1]
    case = {**PLANE, "a": PLANE["s"], "b": PLANE["m"]}
    method = build(FDistill, case, Ratio(case, T), **options)
    found = student_gradient(
        method, case, lambda batch: method.matching(method.generate(batch), batch).total, 1000
    )
    close(found, torch.zeros(2, 2), rtol=0, atol=1e-5)


def test_f_distills_weight_has_no_gradient_of_its_own():
    method = build(FDistill, PLANE, Linear(0.5), generator_weight=0.0)
    with only_grad(method.nets, "student"):
        method.losses("student", batch_of(PLANE, 64), 0).total.backward()
    others = [p for n, p in method.named_parameters() if not n.startswith("nets.student")]
    assert all(p.grad is None or not p.grad.any() for p in others)
    assert method.divergence is DIVERGENCES["jensen_shannon"] and method.ratio == 5


@pytest.mark.parametrize("cls", [DiffRatio, FDistill])
@pytest.mark.parametrize(
    "options, sentence",
    [(dict(divergence="total_variation"), "divergence"), (dict(gan="hinge"), "logistic")],
)
def test_bad_arguments_are_refused(cls, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(cls, LINE, **options)

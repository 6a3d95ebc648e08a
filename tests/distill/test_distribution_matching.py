"""MFD and its nearest kin against quadrature on the Gaussian fixture (METHODS of each docstring)."""

import pytest
import torch

from occdistill.distill.base import only_grad
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.flow.path import TimeLaw
from occdistill.flow.solver import sample
from tests.gaussian import SHAPE, TEACHER, BulkDraws, GaussianField, build, gradients, make_batch

STUDENTS = [(0.7, 1.8), (1.1, 0.2), (0.4, 1.0)]
UNIFORM = dict(law="uniform", low=0.0, high=1.0)

# (dL/da, dL/db) for each student in STUDENTS, by numerical quadrature of the closed forms; the
# costly last
QUADRATURE = {
    "velocity": (VelocityMatching, {}, [(0, 0.412747), (0.197582, -0.412747), (-0.106663, 0)]),
    "diff_instruct_x1": (
        DiffInstruct,
        dict(weight="x1"),
        [(0, 0.485329), (0.149050, -0.485329), (-0.059704, 0)],
    ),
    "diff_instruct_score": (
        DiffInstruct,
        dict(weight="score"),
        [(0, 0.642185), (0.402242, -0.642185), (-0.289103, 0)],
    ),
    "diff_instruct_velocity": (
        DiffInstruct,
        dict(weight="velocity"),
        [(0, 0.412747), (0.197582, -0.412747), (-0.106663, 0)],
    ),
    "mfd": (MFD, dict(ode_step=0.005), [(0, 0.333809), (0.134812, -0.333809), (-0.058236, 0)]),
    "mfd_uniform": (
        MFD,
        dict(ode_step=0.005, times=UNIFORM),
        [(0, 0.246493), (0.101816, -0.246493), (-0.052487, 0)],
    ),
}


@pytest.mark.parametrize("case", QUADRATURE)
def test_gradient_equals_the_closed_form(case):
    cls, options, expected = QUADRATURE[case]
    count = 100_000 if cls is MFD else 400_000  # MFD takes up to 200 Euler steps of two fields
    for student, exact in zip(STUDENTS, expected):
        found = gradients(build(cls, *student, **options), count)
        assert found == pytest.approx(exact, rel=0.02, abs=0.004), student


@pytest.mark.parametrize("case", QUADRATURE)
def test_no_gradient_at_the_optimum(case):
    cls, options, _ = QUADRATURE[case]
    found = gradients(build(cls, 0.7, 1.0, **options), 10_000)  # each sample's own is zero
    assert found == pytest.approx((0, 0), abs=2e-3)


@pytest.mark.parametrize("cls", [MFD, VelocityMatching, DiffInstruct, NoAuxiliary])
def test_student_step_leaves_the_other_nets_alone(cls):
    method = build(cls, 1.1, 0.2)
    with only_grad(method.nets, "student"):
        method.losses("student", make_batch(64), 0).total.backward()
    others = [p for n, p in method.named_parameters() if not n.startswith("nets.student")]
    assert all(p.grad is None or not p.grad.any() for p in others)
    assert method.nets["student"].a.grad.abs() > 0


def test_auxiliary_step_leaves_the_student_alone_and_finds_its_flow():
    method = build(MFD, 0.4, -0.5)
    auxiliary = method.nets["auxiliary"]
    with torch.no_grad():
        auxiliary.mean.fill_(1.0)
        auxiliary.std.fill_(0.9)
    optimiser = torch.optim.Adam(auxiliary.parameters(), lr=0.03)
    for step in range(250):
        optimiser.zero_grad()
        with only_grad(method.nets, "auxiliary"):
            method.losses("auxiliary", make_batch(4096, step), step).total.backward()
        optimiser.step()
    assert auxiliary.mean.item() == pytest.approx(-0.5, abs=0.03)
    assert auxiliary.std.item() == pytest.approx(0.4, abs=0.03)
    assert method.nets["student"].a.grad is None


@pytest.mark.parametrize("start", [(0.3, -1.0), (1.6, 3.0)])
def test_student_converges_to_the_teacher(start):
    method = build(MFD, *start, ode_step=0.1)
    student, auxiliary = method.nets["student"], method.nets["auxiliary"]
    optimiser = torch.optim.SGD(student.parameters(), lr=1.5)
    for step in range(120):
        with torch.no_grad():  # the ideal auxiliary: the student's own flow
            auxiliary.mean.copy_(student.b)
            auxiliary.std.copy_(student.a.abs())
        optimiser.zero_grad()
        method.losses("student", make_batch(8192, step), step).total.backward()
        optimiser.step()
    assert (student.a.item(), student.b.item()) == pytest.approx((0.7, 1.0), abs=0.03)


def test_without_an_auxiliary_the_spread_collapses():
    method = build(NoAuxiliary, 0.7, 1.8, ode_step=0.1)
    assert gradients(method, 100_000)[0] > 0.05  # at the teacher's own spread, still shrinking
    student = method.nets["student"]
    optimiser = torch.optim.SGD(student.parameters(), lr=1.0)
    for step in range(100):
        optimiser.zero_grad()
        method.losses("student", make_batch(4096, step), step).total.backward()
        optimiser.step()
    assert abs(student.a.item()) < 0.02
    assert student.b.item() == pytest.approx(1.0, abs=0.05)


def test_no_auxiliary_interval_gradient_equals_its_closed_form():
    """dL/da = a E[t (1 - t (rho - 1) / (r - t))], dL/db = (b - m) E[t (r - rho t) / (r - t)]."""
    a, b, (m, s) = 1.1, 0.2, TEACHER
    method = build(NoAuxiliary, a, b, ode_step=0.005)
    t, r = method.times.intervals(BulkDraws(2_000_000, 7))
    rho = ((r * s) ** 2 + (1 - r) ** 2).sqrt() / ((t * s) ** 2 + (1 - t) ** 2).sqrt()
    d_a = a * (t * (1 - t * (rho - 1) / (r - t))).mean().item()
    # the sample's own line passes through x̂ - e, whose mean is b
    d_b = (t * (b - m - t * (rho - 1) / (r - t) * (b - m))).mean().item()
    assert gradients(method, 200_000) == pytest.approx((d_a, d_b), rel=0.02)


def test_empty_intervals_are_velocity_matching():
    class EmptyIntervals(TimeLaw):
        def intervals(self, draws):
            t = self.times(draws)
            return t, t

    method = build(MFD, 1.1, 0.2, times=EmptyIntervals())
    assert gradients(method, 1000) == gradients(build(VelocityMatching, 1.1, 0.2), 1000)


@pytest.mark.parametrize("cls", [MFD, VelocityMatching, DiffInstruct])
def test_plan_covers_every_net_ten_to_one(cls):
    method = build(cls, 1.0, 0.0)
    assert method.plan(0) == method.plan(17) == ("auxiliary",) * 10 + ("student",)
    assert set(method.plan(0)) == set(method.nets)


def test_one_step_sampling_is_one_student_call_and_the_teachers_euler_step():
    teacher = GaussianField(*TEACHER)
    method = MFD(teacher, SHAPE, guidance=1.0)
    noise = torch.randn(5, *SHAPE)
    condition = make_batch(5).condition
    before = method.evaluations
    found = method.sample(condition, noise)
    assert method.evaluations - before == 5  # one evaluation per clip
    assert torch.equal(found, sample(teacher, noise, condition, steps=1))


def test_evaluations_count_both_guidance_branches_and_every_ode_step():
    method = build(VelocityMatching, 1.0, 0.5)
    method.losses("student", make_batch(8), 0)
    assert method.evaluations == 8 * (1 + 2 + 1)  # student, guided teacher, auxiliary


def test_unknown_net_and_weight_are_refused():
    with pytest.raises(KeyError, match="teacher2"):
        build(MFD, 1.0, 0.0).losses("teacher2", make_batch(2), 0)
    with pytest.raises(ValueError, match="score"):
        build(DiffInstruct, 1.0, 0.0, weight="x2")

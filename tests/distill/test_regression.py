import pytest
import torch

from occdistill.distill.regression import Regression
from occdistill.flow.solver import sample
from tests.gaussian import SHAPE, TEACHER, GaussianField, build, gradients, make_batch


def teacher_map(steps):
    """Scale and offset of the teacher's sampler, which is affine in the noise."""
    z = torch.tensor([0.0, 1.0]).view(2, *SHAPE)
    ends = sample(GaussianField(*TEACHER), z, make_batch(2).condition, steps).flatten()
    return (ends[1] - ends[0]).item(), ends[0].item()


@pytest.mark.parametrize("student", [(0.7, 1.8), (1.1, 0.2), (0.4, 1.0)])
def test_gradient_is_the_distance_to_the_teachers_affine_map(student):
    """`L = ½ E[((a - A) z + (b - B))²]`, so dL/da = a - A and dL/db = b - B."""
    a, b = teacher_map(10)
    found = gradients(build(Regression, *student), 100_000)
    assert found == pytest.approx((student[0] - a, student[1] - b), abs=0.01)


def test_zero_loss_at_the_teachers_own_map():
    method = build(Regression, *teacher_map(4), steps=4)
    assert method.losses("student", make_batch(100), 0).total < 1e-10


def test_evaluations_are_one_student_and_two_per_teacher_step():
    method = build(Regression, 1.0, 0.0, steps=6)
    method.losses("student", make_batch(8), 0)
    assert method.evaluations == 8 * (1 + 2 * 6)

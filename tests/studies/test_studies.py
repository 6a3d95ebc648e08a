import json

import pytest
import torch

from occdistill.studies import STUDIES, run_study, toy
from occdistill.studies.fields import Noisy
from occdistill.studies.jacobian import gaussian_rules


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_leaves_a_picture_its_numbers_and_a_caption(name, tmp_path):
    finding = run_study(name, quick=True)
    picture, record = finding.save(tmp_path, name)
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(record.read_text())
    assert len(content["caption"]) > 100 and content["values"]


def test_ring_and_its_conditions():
    batch = toy.make_batch(4000, torch.Generator().manual_seed(0))
    points, half = batch.x_1.flatten(1), batch.condition.past.flatten()
    assert (points[:, 1].sign() == half).all()
    assert points.norm(dim=1).mean().item() == pytest.approx(toy.RADIUS, abs=0.02)
    assert toy.modes_found(points) == toy.MODES
    assert toy.modes_found(points[half > 0]) == toy.MODES // 2


def test_energy_distance_is_zero_for_equal_laws_and_grows_with_a_shift():
    a, b = torch.randn(2, 3000, 2, generator=torch.Generator().manual_seed(0)).unbind()
    near, far = toy.energy_distance(a, b), toy.energy_distance(a, b + 1.0)
    assert abs(near) < 0.01 and far > 0.3


@pytest.mark.parametrize("correlation, kept", [(0.0, 0.0), (0.1, 0.135)])
def test_noise_of_the_auxiliary_has_unit_variance_and_the_stated_memory(correlation, kept):
    noisy = Noisy(
        lambda x, t, c: torch.zeros_like(x), correlation, torch.Generator().manual_seed(0)
    )
    x = torch.zeros(50_000, *toy.SHAPE)
    first = noisy(x, torch.full((1,), 0.3), None)
    second = noisy(x, torch.full((1,), 0.5), None)  # exp(-0.2 / 0.1) = 0.135 later
    assert second.var().item() == pytest.approx(1.0, abs=0.03)
    assert (first * second).mean().item() == pytest.approx(kept, abs=0.02)


def test_full_gradient_ignores_a_mean_error_and_narrows_a_narrow_student():
    """METHODS, V4: identity -0.058 for a = 0.4, where the full gradient is positive."""
    assert gaussian_rules(0.7, 1.8)["full"] == pytest.approx((0, 0), abs=1e-9)
    assert gaussian_rules(0.7, 1.8)["identity"][1] == pytest.approx(0.334, abs=0.01)
    narrow = gaussian_rules(0.4, 1.0)
    assert narrow["identity"][0] == pytest.approx(-0.058, abs=0.003)
    assert narrow["full"][0] > 0.02

import math

import pytest
import torch

from occdistill.autoencoder.losses import (
    balanced_weights,
    kl_divergence,
    lovasz_softmax,
    reconstruction_losses,
)
from occdistill.autoencoder.vae import Gaussian


def test_kl_is_zero_for_the_prior_and_known_elsewhere():
    zero, one = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert kl_divergence(Gaussian(zero, one)).item() == 0
    found = kl_divergence(Gaussian(2 * one, 0.5 * one)).item()
    assert found == pytest.approx(0.5 * (4 + 0.25 - 1 - math.log(0.25)))


def test_lovasz_of_hard_predictions_is_one_minus_iou_over_present_classes():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 1, 1])
    probabilities = torch.nn.functional.one_hot(predicted, 4).double()
    # IoU: class 0 2/3, class 1 2/4, class 2 0/1; class 3 is absent and doesn't count
    expected = 1 - (2 / 3 + 1 / 2 + 0) / 3
    assert lovasz_softmax(probabilities, labels).item() == pytest.approx(expected)


def test_perfect_logits_have_no_loss_and_gradients_point_to_the_truth():
    voxels = torch.randint(0, 18, (2, 4, 4, 2), dtype=torch.uint8)
    sure = 50.0 * torch.nn.functional.one_hot(voxels.long(), 18).float()
    assert all(v.item() < 1e-6 for v in reconstruction_losses(sure, voxels).values())
    logits = torch.zeros(2, 4, 4, 2, 18, requires_grad=True)
    losses = reconstruction_losses(logits, voxels)
    assert losses["cross_entropy"].item() == pytest.approx(math.log(18), rel=1e-5)
    sum(losses.values()).backward()
    assert (logits.grad.gather(-1, voxels.long()[..., None]) < 0).all()


def test_sampled_lovasz_sees_every_part_of_the_grid():
    voxels = torch.full((1, 8, 8, 8), 17, dtype=torch.uint8)
    voxels[..., 5] = 4  # one layer in z: a regular stride could step over it for ever
    logits = torch.zeros(1, 8, 8, 8, 18, requires_grad=True)
    torch.manual_seed(0)
    for _ in range(20):
        reconstruction_losses(logits, voxels, lovasz_voxels=64)["lovasz"].backward()
    assert (logits.grad.abs().sum((0, 1, 2, 4)) > 0).all()


def test_balanced_weights_average_one_and_make_classes_equal_at_power_one():
    voxels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced_weights(voxels, 2, power=1.0)
    assert (weights * torch.tensor([0.9, 0.1])).tolist() == pytest.approx([0.5, 0.5])
    assert balanced_weights(voxels, 2, power=0.0).tolist() == [1, 1]

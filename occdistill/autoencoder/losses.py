"""What the VAE is trained on: cross-entropy, Lovász-softmax and the latents' divergence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occdistill.autoencoder.vae import Gaussian


def kl_divergence(posterior: Gaussian) -> Tensor:
    """`KL(N(mean, std²) || N(0, 1))`, averaged over latent elements; a scalar >= 0."""
    variance = posterior.std.square()
    return 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).mean()


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Lovász extension of the Jaccard loss (arXiv 1705.08790), over the classes that are present.

    Args:
        probabilities: `(N, K)`, each row sums to 1.
        labels: integer classes `(N,)`.

    Returns:
        Scalar in [0, 1]; 0 where every voxel's own class has probability 1.
    """
    losses = []
    for k in labels.unique().tolist():
        truth = (labels == k).to(probabilities.dtype)
        errors, order = (truth - probabilities[:, k]).abs().sort(descending=True)
        losses.append(torch.dot(errors, _jaccard_gradient(truth[order])))
    return torch.stack(losses).mean()


def _jaccard_gradient(truth: Tensor) -> Tensor:
    """Increments of the Jaccard loss as voxels are misclassified one by one, worst first."""
    total = truth.sum()
    loss = 1 - (total - truth.cumsum(0)) / (total + (1 - truth).cumsum(0))
    return torch.diff(loss, prepend=loss.new_zeros(1))


def balanced_weights(voxels: Tensor, classes: int, power: float) -> Tensor:
    """Class weights `frequency ** -power`, scaled to average 1 over the voxels.

    Args:
        voxels: integer classes, any shape.
        classes: their number.
        power: 0 for equal weights, 1 to make every class count the same.

    Returns:
        `(classes,)`; a class that never occurs weighs as much as one that occurs once.
    """
    counts = torch.bincount(voxels.flatten().long(), minlength=classes).clamp_min(1).float()
    frequency = counts / counts.sum()
    weights = frequency**-power
    return weights / (weights * frequency).sum()


def reconstruction_losses(
    logits: Tensor,
    voxels: Tensor,
    lovasz_voxels: int = 0,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Cross-entropy and Lovász-softmax of `logits (N, X, Y, Z, K)` against `voxels (N, X, Y, Z)`.

    Args:
        class_weights: `(K,)`, of the cross-entropy's terms; their average over the voxels divides
            it. Default: equal weights.
        lovasz_voxels: compute the Lovász term, which sorts per class, on about this many voxels,
            drawn anew each time (torch's global generator); 0 for all of them.
    """
    logits, labels = logits.flatten(0, -2), voxels.flatten().long()
    some = slice(None)
    if 0 < lovasz_voxels < labels.numel():
        some = torch.randint(labels.numel(), (lovasz_voxels,), device=labels.device)
    return {
        "cross_entropy": F.cross_entropy(logits, labels, class_weights),
        "lovasz": lovasz_softmax(logits[some].softmax(-1), labels[some]),
    }

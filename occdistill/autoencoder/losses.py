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


def reconstruction_losses(
    logits: Tensor, voxels: Tensor, lovasz_voxels: int = 0
) -> dict[str, Tensor]:
    """Cross-entropy and Lovász-softmax of `logits (N, X, Y, Z, K)` against `voxels (N, X, Y, Z)`.

    Args:
        lovasz_voxels: compute the Lovász term, which sorts per class, on this many voxels spread
            evenly over the batch; 0 for all of them.
    """
    logits, labels = logits.flatten(0, -2), voxels.flatten().long()
    stride = max(1, labels.numel() // lovasz_voxels) if lovasz_voxels else 1
    return {
        "cross_entropy": F.cross_entropy(logits, labels),
        "lovasz": lovasz_softmax(logits[::stride].softmax(-1), labels[::stride]),
    }

"""The one attention of all transformer blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor

# CUDA's fused kernels take no longer batch (pytorch issue 142228); attention over the frames of
# each pixel has 2,500 sequences a clip at full size
MOST_SEQUENCES = 65_535


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention on `(S, heads, N, D)`, logits divided by the root of D.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: added to the logits, `(1, heads, N, N)`.

    Returns:
        `(S, heads, N, D)`; S may be of any size.
    """
    pieces = zip(*(x.split(MOST_SEQUENCES) for x in (q, k, v)))
    attended = [F.scaled_dot_product_attention(*qkv, attn_mask=bias) for qkv in pieces]
    return attended[0] if len(attended) == 1 else torch.cat(attended)

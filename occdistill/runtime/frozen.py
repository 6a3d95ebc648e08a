"""Networks whose weights no longer change: the same numbers to rounding, sooner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.autoencoder.light import LightEncoder, Lightened, fold
from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.flow.solver import VelocityField
from occdistill.runtime.shortcuts import most_likely, sliced, swapped


def plain_encoder(vae: nn.Module) -> nn.Module:
    """`vae.encode` as a module: integer classes `(N, X, Y, Z)` to the mean `(N, C, H, W)`."""
    return _Encoder(vae)


def plain_decoder(vae: nn.Module) -> nn.Module:
    """`vae.decode` as a module: unscaled latents `(N, C, H, W)` to uint8 `(N, X, Y, Z)`."""
    return _Decoder(vae)


def field(network: VelocityField) -> VelocityField:
    """A velocity field, guided or not, with the layers of `shortcuts` where they fit."""
    return swapped(network) if isinstance(network, nn.Module) else network


def encoder(vae: nn.Module) -> nn.Module:
    """`plain_encoder`, sooner for the autoencoders of this package and the light encoder.

    The small autoencoder's weights are read now; later changes to them are not seen.
    """
    if isinstance(vae, Lightened):
        light = vae.encoder
        if isinstance(light, LightEncoder):
            # A 1×1 convolution of cells folded into channels: cell, height, embedding.
            first = light.body[0].weight.flatten(1)
            first = first.unflatten(1, (-1, light.classes.embedding_dim)).movedim(1, 0)
            return nn.Sequential(
                ColumnSum(first, light.body[0].bias, light.classes.weight), *light.body[1:]
            )
        return encoder(vae.vae) if light is None else plain_encoder(vae)
    if type(vae) is not VAE:
        return plain_encoder(swapped(vae))
    first, last = vae.encoder[0], vae.encoder[-1]
    # A 2×2 convolution of stride 2 over heights and embedding: cell, height, embedding.
    weight = first.weight.unflatten(1, (-1, vae.classes.embedding_dim)).permute(3, 4, 1, 0, 2)
    mean = nn.Conv2d(last.in_channels, last.out_channels // 2, 1, device=last.weight.device)
    mean.load_state_dict({key: x.chunk(2)[0] for key, x in last.state_dict().items()})
    return nn.Sequential(
        ColumnSum(weight.flatten(0, 2), first.bias, vae.classes.weight), *vae.encoder[1:-1], mean
    )


def decoder(vae: nn.Module) -> nn.Module:
    """`plain_decoder`, sooner for the autoencoders of this package; see `encoder`."""
    if isinstance(vae, Lightened) and vae.decoder is None:
        return decoder(vae.vae)
    if type(vae) is not VAE:
        return plain_decoder(swapped(vae))
    return nn.Sequential(*vae.decoder[:-2], ClassHead(vae.decoder[-2]))


class _Encoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, voxels: Tensor) -> Tensor:
        return self.vae.encode(voxels).mean


class _Decoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


class ColumnSum(nn.Module):
    """Embedding and first convolution, which sees 2×2 columns of voxels: a sum of table rows.

    Each of the 4 Z voxels has one of 18 classes, so a convolution of their embeddings is a sum of
    4 Z out of 4 Z × 18 precomputed vectors.

    Args:
        weight: of the convolution, per voxel (2 × 2 × Z of them, height innermost), output and
            number of the embedding, `(4 Z, O, E)`.
        bias: `(O,)`.
        classes: embedding `(18, E)`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, classes: Tensor) -> None:
        super().__init__()
        table = torch.einsum("soe,ce->sco", weight.detach().double(), classes.detach().double())
        first_row = NUM_CLASSES * torch.arange(len(weight), dtype=torch.int32)
        self.register_buffer("table", table.flatten(0, 1).float())
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("first_row", first_row.to(weight.device))

    def forward(self, voxels: Tensor) -> Tensor:
        """Integer classes `(N, X, Y, Z)` to `(N, O, X / 2, Y / 2)`."""
        cells = fold(voxels)
        rows = cells.flatten(0, 2) + self.first_row
        summed = F.embedding_bag(rows, self.table, mode="sum") + self.bias
        return summed.view(*cells.shape[:3], -1).permute(0, 3, 1, 2).contiguous()


class ClassHead(nn.Module):
    """Last 1×1 convolution, pixel shuffle and argmax, without keeping the logits.

    A CPU compares the logits of a few pixels at a time while they are in its cache; only classes
    are shuffled into place.

    Args:
        conv: to `Z × 18 × 2 × 2` channels.
    """

    rows_per_slice = 512

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()

        def reorder(x: Tensor) -> Tensor:
            """From height, class, cell to class, cell, height."""
            return x.unflatten(0, (-1, NUM_CLASSES, 4)).movedim(0, 2).flatten(0, 2)

        self.logits = nn.Linear(conv.in_channels, conv.out_channels, device=conv.weight.device)
        state = {"weight": reorder(conv.weight.flatten(1)), "bias": reorder(conv.bias)}
        self.logits.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(N, C, X / 2, Y / 2)` to classes, uint8 `(N, X, Y, Z)`."""
        n, channels, height, width = x.shape

        def classes(pixels: Tensor) -> Tensor:
            return most_likely(self.logits(pixels).unflatten(-1, (NUM_CLASSES, -1)), 1)

        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        best = sliced(classes, self.rows_per_slice, pixels).view(n, height, width, 2, 2, -1)
        return best.transpose(2, 3).reshape(n, 2 * height, 2 * width, -1)

"""Weights, inputs and expected outputs that depend on nothing but a seed.

OccFM's authors publish no test vectors, and their weights were not at hand. So every weight and
every input is drawn by a rule from a stream named after it, the original networks were run once
under that rule, and their outputs are the golden file. `compute` does the same with our networks.

Rule: the stream of a name is `PCG64([seed, crc32(name)])`; draws are float64, in C order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from occdistill.autoencoder.losses import reconstruction_losses
from occdistill.autoencoder.occfm import OccFMVAE, SwinBlock, published_kl
from occdistill.autoencoder.vae import Gaussian
from occdistill.flow.guidance import Guided
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.solver import sample
from occdistill.latents.condition import Condition
from occdistill.occfm.mapping import (
    TRANSITION,
    VAE,
    from_published,
    to_published,
    translate,
)

RMS_TOLERANCE = 2e-5  # of the golden array's standard deviation
MAX_TOLERANCE = 2e-4
KEPT = (  # tables that the networks compute
    "height_embedding",
    "relative_coords_table",
    "relative_position_index",
    "attn_mask",
    "pos_embed",
    "temp_embed",
)


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers that belong to `name`."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def weight(seed: int, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """The tensor of a published key by the rule; None if the network's own is kept."""
    last = key.rsplit(".", 1)[-1]
    if last in KEPT:
        return None
    n = stream(seed, key).standard_normal(math.prod(shape)).reshape(shape)
    if last == "logit_scale":
        n = math.log(10) + 0.2 * n
    elif last == "gamma" or (last == "weight" and len(shape) == 1):
        n = 1 + 0.1 * n
    elif len(shape) == 1:
        n = 0.1 * n
    elif last == "absolute_pos_embed":
        n = 0.2 * n
    elif key.endswith("relative_attention_bias.weight"):
        n = 0.5 * n
    elif not key.endswith("class_embeds.weight"):
        n = n / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Give `network` the rule's weights, through the published names and shapes."""
    published = to_published(network)
    for key, value in published.items():
        drawn = weight(seed, key, tuple(value.shape))
        if drawn is not None:
            published[key] = drawn
    network.load_state_dict(from_published(network, published))
    return network.eval()


# ------------------------------------------------------------------ inputs


def normal(seed: int, name: str, *shape: int) -> Tensor:
    """Standard normal float32 of the stream `input:name`."""
    n = stream(seed, f"input:{name}").standard_normal(shape)
    return torch.from_numpy(n.astype(np.float32))


def occupancy(seed: int, index: int) -> np.ndarray:
    """A grid of ground, boxes and noise, uint8 `(200, 200, 16)`."""
    random = stream(seed, f"input:occ:{index}").random
    grid = np.full((200, 200, 16), 17, np.uint8)
    x, y, z = np.ogrid[:200, :200, :16]
    ground = np.array([11, 12, 13, 14], np.uint8)[(x // 17 + 2 * (y // 29)) % 4]
    grid = np.where(z < 1 + (x // 23 + y // 31) % 3, ground, grid)
    for b in random((60, 6)):
        x0, y0 = int(190 * b[0]), int(190 * b[1])
        length, width, height = 2 + int(20 * b[2]), 2 + int(20 * b[3]), 1 + int(12 * b[4])
        grid[x0 : x0 + length, y0 : y0 + width, 1 : 1 + height] = int(17 * b[5])
    replaced = random(grid.shape) < 0.01
    noise = np.floor(18 * random(grid.shape)).astype(np.uint8)
    return np.where(replaced, noise, grid)


def trajectory(seed: int) -> Tensor:
    """Two drives of about 4 m per step, `(2, 12, 2)`."""
    n = normal(seed, "traj", 2, 12, 2)
    return torch.stack([0.3 * n[..., 0], 4 + 2 * n[..., 1]], dim=-1)


# ------------------------------------------------------------------ outputs

Arrays = dict[str, Tensor]
Stats = dict[str, tuple[float, float, float, float]]


@contextmanager
def probed(network: nn.Module, prefix: str, stats: Stats) -> Iterator[None]:
    """Write mean, std, min and max of every block's output into `stats` while this is open.

    A block goes under `prefix:` and its published path; a stage's Swin blocks also go, the last one
    winning, under the path of the stage.
    """
    table = VAE if isinstance(network, OccFMVAE) else TRANSITION

    def record(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, out: Tensor) -> None:
            if isinstance(out, Tensor):
                out = out.double()
                values = (out.mean(), out.std(correction=0), out.min(), out.max())
                stats[f"{prefix}:{name}"] = tuple(float(v) for v in values)

        return hook

    handles = []
    for path, module in network.named_modules():
        try:
            name = translate(path, table).removeprefix("transition_model.")
            name = name.removesuffix(".relative_attention_bias")
        except KeyError:  # a container that the published network doesn't have
            continue
        handles.append(module.register_forward_hook(record(name)))
        if isinstance(module, SwinBlock):
            handles.append(module.register_forward_hook(record(name.rsplit(".blocks.", 1)[0])))
    yield
    for handle in handles:
        handle.remove()


def class_counts(classes: Tensor) -> Tensor:
    """Voxels per class of each frame `(N, ...)`, int64 `(N, 18)`."""
    return torch.stack([torch.bincount(c.flatten().long(), minlength=18) for c in classes])


def vae_arrays(seed: int, device: str, stats: Stats) -> Arrays:
    """Encoder, decoder and losses of the 16-channel autoencoder."""
    vae = fill(OccFMVAE(), seed).to(device)
    grids = torch.from_numpy(np.stack([occupancy(seed, 0), occupancy(seed, 1)])).to(device)
    z = normal(seed, "z", 2, 16, 50, 50).to(device)
    with probed(vae, "enc", stats):
        posterior = vae.encode(grids)
    with probed(vae, "dec", stats):
        logits = vae.logits(z)
    classes = vae.decode(z)
    first = Gaussian(posterior.mean[:1], posterior.std[:1])
    rebuilt = vae.logits(first.mean)
    losses = reconstruction_losses(rebuilt, grids[:1])
    return {
        "occ_hist": class_counts(grids).sum(0),
        "enc_mu": posterior.mean,
        "enc_sigma": posterior.std,
        "dec_map_sub": vae.decoder(z)[:, :, 3::19, 5::19],
        "dec_logits_sub": logits[:, 3::11, 5::11],
        "dec_logits_mean_zc": logits.double().mean((1, 2)),
        "dec_logits_std_zc": logits.double().std((1, 2), correction=0),
        "dec_argmax_hist": class_counts(classes),
        "dec_argmax_sub": classes[:, ::8, ::8],
        "rt_logits_sub": rebuilt[:, 3::17, 5::17],
        "vae_losses": torch.stack([*losses.values(), published_kl(first)]),
    }


def transition_arrays(seed: int, device: str, stats: Stats) -> Arrays:
    """The history network on two windows of noise, with and without their trajectories."""
    network = fill(OccFMTransition(), seed).to(device)
    x, t, drive = window(seed, device)
    with probed(network, "trans", stats):
        driven = network.velocity(x, t, drive)
    still = network.velocity(x, t, None)
    return {
        "trans_traj_sub": driven[..., 2::5, 1::5],
        "trans_notraj_sub": still[..., 2::5, 1::5],
    }


def future_arrays(seed: int, device: str, stats: Stats) -> Arrays:
    """The network that sees the future trajectory: one evaluation, and two guided steps."""
    network = fill(OccFMTransition(trajectory_length=12), seed).to(device)
    x, t, drive = window(seed, device)
    sampled = guided_sample(network, seed, steps=2)
    return {
        "trans_fut_traj_sub": network.velocity(x, t, drive)[..., 2::5, 1::5],
        "sample_fut_nfe2_sub": sampled[..., 1::3, 2::3],
    }


def sampler_arrays(seed: int, device: str, stats: Stats) -> Arrays:
    """The guided sampler at 1, 2 and 10 steps, and the last result decoded."""
    network = fill(OccFMTransition(), seed).to(device)
    vae = fill(OccFMVAE(), seed).to(device)
    ten = guided_sample(network, seed, steps=10)
    return {
        "sample_nfe1_sub": guided_sample(network, seed, steps=1)[..., 1::3, 2::3],
        "sample_nfe2_sub": guided_sample(network, seed, steps=2)[..., 1::3, 2::3],
        "sample_nfe10_sub": ten[..., ::2, ::2],
        "e2e_logits_sub": vae.logits(ten[0])[:, 3::23, 5::23],
        "e2e_argmax_hist": class_counts(vae.decode(ten[0])),
    }


def window(seed: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Latents `(2, 12, 16, 50, 50)`, times `(2,)` and trajectories `(2, 12, 2)`."""
    x = normal(seed, "latent", 2, 12, 16, 50, 50)
    return x.to(device), torch.tensor([0.25, 0.85], device=device), trajectory(seed).to(device)


def guided_sample(network: OccFMTransition, seed: int, steps: int) -> Tensor:
    """OccFM's sampler on the rule's condition and noise; unscaled latents `(1, 6, 16, 50, 50)`."""
    past, drive = normal(seed, "cond", 1, 6, 16, 50, 50), trajectory(seed)[:1]
    past[:, :2], drive[:, :2] = 0, 0
    condition = Condition(past, trajectory=drive).to(network.enter.weight.device)
    noise = normal(seed, "noise", 1, 6, 16, 50, 50).to(condition.past.device)
    field = Guided(network, scale=2.0)
    return sample(field, noise, condition, steps=steps, shift=3.0) / OccFMVAE.scale


PARTS: dict[str, Callable[[int, str, Stats], Arrays]] = {
    "vae": vae_arrays,
    "transition": transition_arrays,
    "future": future_arrays,
    "sampler": sampler_arrays,
}


@torch.no_grad()
def compute(part: str, seed: int, device: str = "cpu") -> tuple[dict[str, np.ndarray], Stats]:
    """Our networks' values of the golden arrays of one part, and of the probes inside them."""
    stats: Stats = {}
    arrays = PARTS[part](seed, device, stats)
    return {name: value.cpu().numpy() for name, value in arrays.items()}, stats


# ------------------------------------------------------------------ comparison


@dataclass(frozen=True)
class Difference:
    """How far an array is from the golden one."""

    name: str
    largest: float  # absolute
    relative: float  # rms of the difference over the golden array's standard deviation
    passed: bool


def compared(name: str, ours: np.ndarray, golden: np.ndarray) -> Difference:
    """Compare one array: floats by the tolerances above, classes and counts by equality.

    Up to 0.01 % of the voxels may change class, since some lie on the border of two.
    """
    if ours.shape != golden.shape:
        return Difference(name, math.inf, math.inf, False)
    if np.issubdtype(golden.dtype, np.integer):
        wrong = np.abs(ours.astype(np.int64) - golden.astype(np.int64))
        if name.endswith("hist"):
            share = wrong.sum() / golden.sum()
        else:
            share = np.mean(wrong > 0)
        return Difference(name, float(wrong.max()), float(share), bool(share <= 1e-4))
    difference = ours.astype(np.float64) - golden
    largest = float(np.abs(difference).max())
    relative = float(np.sqrt(np.mean(difference**2)) / golden.astype(np.float64).std())
    passed = largest < MAX_TOLERANCE and relative < RMS_TOLERANCE
    return Difference(name, largest, relative, passed)


def compare_part(
    part: str, seed: int, golden: Mapping[str, np.ndarray], device: str = "cpu"
) -> list[Difference]:
    """Compute one part and compare every array of it that the golden file holds."""
    arrays, stats = compute(part, seed, device)
    rows = [compared(name, value, golden[name]) for name, value in arrays.items() if name in golden]
    names = [str(name) for name in golden.get("probe_names", ())]
    inside = [i for i, name in enumerate(names) if name in stats]
    if inside:
        ours = np.array([stats[names[i]] for i in inside])
        rows.append(compared(f"{part} probes ({len(inside)})", ours, golden["probe_stats"][inside]))
    return rows

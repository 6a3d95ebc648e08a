"""OccFM's autoencoder in pieces, each against something computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occdistill.autoencoder.occfm import (
    SHIFT,
    OccFMVAE,
    PixelAttention,
    ResConv,
    SwinBlock,
    TemporalBlock,
    VoxelEmbedding,
    averaged_relative_index,
    from_windows,
    published_kl,
    relative_index,
    shift_mask,
    to_windows,
)
from occdistill.autoencoder.vae import Gaussian

SMALL = dict(channels=4, grid_shape=(40, 20, 4), width=(32, 32, 64), depths=(2, 2))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**more):
    return OccFMVAE(**{**SMALL, **more})


def test_shapes_and_ranges():
    vae = small().eval()
    voxels = torch.randint(18, (2, 40, 20, 4), dtype=torch.uint8)
    posterior = vae.encode(voxels)
    assert posterior.mean.shape == posterior.std.shape == (2, 4, 10, 5)
    assert bool((posterior.std > 0).all())
    logits = vae.logits(posterior.mean)
    assert logits.shape == (2, 40, 20, 4, 18)
    classes = vae.decode(posterior.mean)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), logits.argmax(-1))


def test_embedding_folds_heights_outermost():
    layer = VoxelEmbedding(4, 16)
    voxels = torch.randint(18, (1, 6, 7, 4))
    h = (torch.arange(4) + 0.5) / 4
    codes = torch.stack(
        [torch.zeros(4), torch.ones(4), (math.pi * h).sin(), (math.pi * h).cos()], dim=1
    )
    voxel = torch.cat([layer.classes(voxels), codes.expand(1, 6, 7, 4, 4)], dim=-1)
    expected = layer.project(voxel.reshape(1, 6, 7, 48).permute(0, 3, 1, 2))
    assert torch.allclose(layer(voxels), expected, atol=1e-6)


def test_class_table_learns_through_the_encoder_only():
    vae = small()
    vae.logits(torch.randn(1, 4, 10, 5)).sum().backward()
    assert vae.embedding.classes.weight.grad is None


def test_windows_in_raster_order_and_back():
    x = torch.arange(2 * 10 * 15).view(2, 10, 15, 1)
    windows = to_windows(x)
    assert torch.equal(windows[4, :, 0], x[0, 5:10, 5:10, 0].flatten())
    assert torch.equal(from_windows(windows, 10, 15), x)


def test_relative_index_names_row_and_column_offset():
    index = relative_index()
    query, key = (3, 1), (0, 4)
    entry = index[query[0] * 5 + query[1], key[0] * 5 + key[1]]
    assert int(entry) == (3 - 0 + 4) * 9 + (1 - 4 + 4)


def test_averaging_the_index_as_torch_does_gives_the_altered_one():
    index = relative_index()
    average = index.clone()
    for _ in range(50):
        average.copy_(average * 0.9999 + index * (1 - 0.9999))
    assert torch.equal(average, averaged_relative_index())
    assert int((index != average).sum()) == 111


def test_altered_index_changes_the_output_and_can_be_put_right():
    vae = small().eval()
    z = torch.randn(1, 4, 10, 5)
    intended = vae.features(z)
    vae.set_relative_index("averaged")
    assert not torch.allclose(vae.features(z), intended, atol=1e-3)
    vae.set_relative_index("intended")
    assert torch.equal(vae.features(z), intended)


def test_shifted_windows_attend_only_to_true_neighbours():
    block = SwinBlock(16, (10, 10), shifted=True).eval()
    x = torch.randn(1, 16, 10, 10)
    changed = x.clone()
    changed[:, :, 0, 0] += 1  # after the shift it shares a window with rows and columns 7 to 9
    touched = (block(changed) - block(x)).abs().sum(1)[0] > 1e-6
    rows, columns = touched.nonzero().unbind(1)
    assert bool(touched[0, 0]) and int(rows.max()) < SHIFT and int(columns.max()) < SHIFT


def test_shift_mask_by_comparing_unshifted_positions():
    mask = shift_mask(10, 10)
    row = torch.arange(10)[:, None].expand(10, 10)
    column = row.T
    place = torch.stack([row, column], dim=-1)[None].roll((-SHIFT, -SHIFT), (1, 2))
    windows = to_windows(place)  # the window of a pixel's true position, in a shifted tiling
    true = (windows + 3) // 5
    same = (true[:, :, None] == true[:, None]).all(-1)
    assert torch.equal(mask == 0, same)


def test_swin_block_by_hand_on_one_window():
    """Cosine attention, learned bias, post-norms, on a map of exactly one window."""
    block = SwinBlock(16, (5, 5), shifted=False).eval()
    attention = block.attention
    nn.init.normal_(attention.query_bias)
    nn.init.normal_(attention.value_bias)
    nn.init.constant_(attention.log_temperature[0], 10.0)  # beyond ln 100, where it is cut
    x = torch.randn(1, 16, 5, 5)
    tokens = x[0].flatten(1).T
    q, k, v = (tokens @ attention.qkv.weight.T).chunk(3, dim=1)
    q, v = q + attention.query_bias, v + attention.value_bias
    merged = []
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        temperature = math.exp(min(float(attention.log_temperature[head]), math.log(100)))
        cosine = F.cosine_similarity(q[:, None, part], k[None, :, part], dim=-1)
        offsets = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5)) * 2.0
        scaled = offsets.sign() * torch.log2(offsets.abs() + 1) / 3
        table = attention.offset_out(F.relu(attention.offset_in(scaled)))[:, head]
        bias = 16 * torch.sigmoid(table[relative_index()])
        merged.append((temperature * cosine + bias).softmax(-1) @ v[:, part])
    attended = attention.out(torch.cat(merged, dim=1))
    tokens = tokens + block.attention_norm(attended)
    tokens = tokens + block.mlp_norm(block.mlp_out(F.gelu(block.mlp_in(tokens))))
    assert torch.allclose(block(x)[0].flatten(1).T, tokens, atol=2e-5)


def test_pixel_attention_by_hand():
    layer = PixelAttention(32).eval()
    x = torch.randn(2, 32, 3, 4)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    k, v = layer.key_value(tokens).chunk(2, dim=-1)
    q, k, v = (y.view(2, 12, 8, 64).transpose(1, 2) for y in (layer.query(tokens), k, v))
    attended = (q @ k.transpose(-1, -2) / 8).softmax(-1) @ v
    out = layer.merge(attended.transpose(1, 2).reshape(2, 12, 512))
    expected = x + layer.out(out.transpose(1, 2).reshape(x.shape))
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_group_norms_use_epsilon_one_millionth():
    """Too small for the golden vectors to show: a unit's variance of 1e-6 is halved by it."""
    layer = ResConv(32)
    with torch.no_grad():
        for conv in (layer.conv1, layer.conv2):
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        x = torch.where(torch.arange(64) % 2 == 0, 1e-3, -1e-3).view(1, 1, 8, 8).expand(1, 32, 8, 8)
        expected = x + F.silu(x / math.sqrt(1e-6 + 1e-6))
        assert torch.allclose(layer(x), expected, rtol=1e-4)
    everywhere = [m.eps for m in OccFMVAE(**SMALL).modules() if isinstance(m, nn.GroupNorm)]
    assert set(everywhere) == {1e-6}


def test_temporal_block_replaces_its_input_by_attention():
    block = TemporalBlock(32, frames=3).eval()
    x = torch.randn(6, 32, 4, 5)
    block.out.weight.data.zero_()
    block.out.bias.data.zero_()
    assert torch.allclose(
        block(x), block.res2(torch.zeros(2, 32, 3, 4, 5)).transpose(1, 2).flatten(0, 1)
    )
    assert {m.eps for m in block.modules() if isinstance(m, nn.GroupNorm)} == {1e-5}


def test_three_dimensional_autoencoder_mixes_the_frames_of_a_clip_only():
    vae = small(frames=3).eval()
    voxels = torch.randint(18, (6, 40, 20, 4), dtype=torch.uint8)
    changed = voxels.clone()
    changed[0] = 17
    with torch.no_grad():
        moved = (vae.encode(changed).mean - vae.encode(voxels).mean).abs().amax((1, 2, 3))
    assert bool((moved[:3] > 1e-5).all())
    assert float(moved[3:].max()) == 0
    assert vae.decode(torch.randn(3, 4, 10, 5)).shape == (3, 40, 20, 4)


def test_half_precision_stays_close():
    vae = small().eval()
    voxels = torch.randint(18, (1, 40, 20, 4), dtype=torch.uint8)
    mean = vae.encode(voxels).mean
    with torch.autocast("cpu", torch.bfloat16):
        rough = vae.encode(voxels).mean
        classes = vae.decode(mean)
    assert float((rough.float() - mean).norm() / mean.norm()) < 0.05
    assert float((classes == vae.decode(mean)).float().mean()) > 0.9


def test_recomputing_gives_the_same_gradients():
    plain, recomputing = small(), small(recompute=True)
    recomputing.load_state_dict(plain.state_dict())
    voxels = torch.randint(18, (1, 40, 20, 4))
    for vae in (plain, recomputing):
        posterior = vae.encode(voxels)
        (vae.logits(posterior.mean).square().mean() + posterior.std.mean()).backward()
    for p, q in zip(plain.parameters(), recomputing.parameters()):
        assert p.grad is None and q.grad is None or torch.allclose(p.grad, q.grad, atol=1e-7)


def test_published_kl_has_the_deviation_where_a_kl_has_the_log_variance():
    posterior = Gaussian(torch.tensor([[0.5]]), torch.tensor([[0.2]]))
    assert float(published_kl(posterior)) == pytest.approx(
        -0.5 * (1 + 0.2 - 0.25 - math.exp(0.2)), rel=1e-6
    )


def test_a_grid_that_windows_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="multiple of 20"):
        small(grid_shape=(40, 30, 4))

"""OccFM's transition network in pieces, each against something computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occdistill.errors import UserError
from occdistill.flow.networks.occfm import (
    Attention,
    OccFMTransition,
    Residual,
    Transformer,
    attend,
    clock_code,
    frame_buckets,
    index_code,
    over_frames,
    over_pixels,
    position_table,
    rms_norm,
    trajectory_code,
)
from occdistill.latents.condition import Condition

SMALL = dict(latent_shape=(4, 6, 6), past=3, future=2, trajectory_length=5, width=16)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**more):
    return OccFMTransition(**{**SMALL, **more}).eval()


def clip(batch=2, past=3, length=5):
    x_t = torch.randn(batch, 2, 4, 6, 6)
    condition = Condition(
        torch.randn(batch, past, 4, 6, 6), trajectory=torch.randn(batch, length, 2)
    )
    return x_t, torch.rand(batch), condition


def with_aligned(condition, count=2):
    aligned = torch.randn(len(condition.past), 2, count * 4, 6, 6)
    return Condition(condition.past, aligned, condition.trajectory)


def test_aligned_frames_begin_without_effect_to_the_bit():
    plain, (x_t, t, condition) = small(), clip()
    network = small(align=2)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["aligned_in.weight", "aligned_in.bias"] and not unexpected
    assert all(key.startswith(network.without_effect) for key in missing)
    condition = with_aligned(condition)
    assert torch.equal(network(x_t, t, condition), plain(x_t, t, condition))
    network(x_t, t, condition).square().mean().backward()
    assert network.aligned_in.weight.grad.abs().min() > 0  # it learns at once
    guided = (network(x_t, t, c) for c in (condition, condition.null()))
    assert all(
        torch.equal(a, plain(x_t, t, c)) for a, c in zip(guided, (condition, condition.null()))
    )


def test_an_aligned_frame_enters_where_its_own_future_frame_does():
    network, (x_t, t, condition) = small(align=1), clip()
    torch.nn.init.normal_(network.aligned_in.weight)
    seen = []
    network.enter_time.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    condition = with_aligned(condition, 1)
    moved = condition.aligned.clone()
    moved[:, 1, :, 2, 3] += 1
    for aligned in (condition.aligned, moved):
        network(x_t, t, Condition(condition.past, aligned, condition.trajectory))
    # sequences (B * H * W, frames, C): of three past and two future frames the last alone differs
    changed = (seen[0] != seen[1]).any(-1).view(2, 36, 5)
    assert changed.any(1).tolist() == [[False] * 4 + [True]] * 2


@pytest.mark.parametrize("aligned", [None, torch.zeros(2, 2, 4, 6, 6)])
def test_another_number_of_aligned_frames_is_refused(aligned):
    x_t, t, condition = clip()
    with pytest.raises(UserError, match=r"holds [01] aligned frames .* takes 2: .*network.align"):
        small(align=2)(x_t, t, Condition(condition.past, aligned, condition.trajectory))


# ------------------------------------------------------------------ codes


def test_clock_puts_cosines_first_and_counts_in_thousandths():
    code = clock_code(torch.tensor([0.25]), 128)[0]
    k = 3
    assert float(code[k]) == pytest.approx(math.cos(250 * 10000 ** (-k / 64)), abs=1e-4)
    assert float(code[64 + k]) == pytest.approx(math.sin(250 * 10000 ** (-k / 64)), abs=1e-4)


def test_trajectory_code_order_is_frame_frequency_function_coordinate():
    drive = torch.tensor([[[0.3, 4.0], [-0.1, 2.0]]])
    code = trajectory_code(drive)[0]
    assert code.shape == (64,)
    frame, k, coordinate = 1, 5, 0
    g = 100 ** (k / 8)
    assert float(code[32 * frame + 4 * k + coordinate]) == pytest.approx(
        math.sin(g * -0.1), abs=1e-5
    )
    assert float(code[32 * frame + 4 * k + 2 + coordinate]) == pytest.approx(
        math.cos(g * -0.1), abs=1e-5
    )


def test_position_table_drifts_by_a_column_per_row_and_need_not():
    table = position_table(50, 50, 128, columns=51)
    assert torch.equal(table[50 * 1 + 0], torch.cat([index_code(torch.tensor([50]), 64),
                                                     index_code(torch.tensor([0]), 64)], 1)[0])  # fmt: skip
    straight = position_table(50, 50, 128, columns=50)
    assert torch.equal(straight[50, :64], straight[0, :64])
    assert float(index_code(torch.tensor([7]), 64)[0, 1]) == pytest.approx(
        math.sin(7 * 10000 ** (-1 / 32)), abs=1e-7
    )


def test_buckets_tell_past_from_future_frames():
    buckets = frame_buckets(12)
    for query in range(12):
        for key in range(12):
            assert int(buckets[query, key]) == abs(query - key) + (16 if key > query else 0)
    assert int(frame_buckets(40)[39, 0]) == 15


# ------------------------------------------------------------------ blocks


def test_attention_equals_softmax():
    for width in (4, 8):
        q, k, v = torch.randn(3, 2, 8, 7, width)
        bias = torch.randn(1, 8, 7, 7)
        expected = (q @ k.transpose(-1, -2) / math.sqrt(width) + bias).softmax(-1) @ v
        assert torch.allclose(attend(q, k, v, bias), expected, atol=1e-5)


def test_head_merge_reinterprets_memory():
    """Flat element p of a token sequence is head p div (N hd), token …, component …."""
    block = Transformer(64, 16, "reinterpret").eval()
    x = torch.randn(1, 5, 64)
    q, k, v = (y.view(1, 5, 8, 8).transpose(1, 2) for y in block.qkv(x).chunk(3, dim=-1))
    heads = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v
    merged = torch.empty(5, 64)
    for p in range(5 * 64):
        merged[p // 64, p % 64] = heads[0, p // 40, p % 40 // 8, p % 8]
    assert torch.allclose(block.attention(x)[0], block.out(merged), atol=1e-6)
    usual = Transformer(64, 16, "transpose").eval()
    usual.load_state_dict(block.state_dict())
    expected = block.out(heads.transpose(1, 2).reshape(1, 5, 64))
    assert torch.allclose(usual.attention(x), expected, atol=1e-6)


def test_transformer_norm_uses_epsilon_one_millionth():
    """Too small for the golden vectors to show: a token's variance of 1e-6 is halved by it."""
    x = torch.tensor([[[1e-3, -1e-3] * 8]])
    zero = torch.zeros(1, 1, 16)
    assert torch.allclose(Transformer.modulate(x, zero, zero), x / math.sqrt(2e-6), rtol=1e-5)


def test_attention_norm_uses_epsilon_one_hundred_thousandth():
    """Likewise: a variance of 1e-5 is halved by it."""
    layer = Attention(16)
    seen = []
    layer.qkv.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    x = torch.tensor([[[1e-5**0.5, -(1e-5**0.5)] * 8]])
    layer.gain.data.fill_(3.0)
    layer(x)
    assert torch.allclose(seen[0], 3 * x / math.sqrt(2e-5), rtol=1e-5)


def test_rms_norm_gives_unit_mean_square_and_keeps_zeros():
    x = torch.randn(3, 32) * 1e-4
    assert torch.allclose(rms_norm(x, torch.ones(32)).square().mean(-1), torch.ones(3), atol=1e-5)
    assert float(rms_norm(torch.zeros(1, 32), torch.ones(32)).abs().max()) == 0


def test_residual_by_hand():
    block = Residual(8, 16, 12).eval()
    x, e = torch.randn(4, 5, 6, 8), torch.randn(2, 12)
    maps = x.permute(0, 3, 1, 2)
    scale, shift = block.modulation(e).repeat_interleave(2, 0)[..., None, None].chunk(2, dim=1)

    def norm(h, gain):
        return F.normalize(h, dim=1) * math.sqrt(16) * gain[:, None, None]

    h = F.silu(norm(block.conv1(maps), block.gain1) * (1 + scale) + shift)
    h = F.silu(norm(block.conv2(h), block.gain2)) + block.skip(maps)
    assert torch.allclose(block(x, e), h.permute(0, 2, 3, 1), atol=1e-5)


def test_views_over_pixels_and_frames():
    x = torch.randn(2 * 3, 4, 5, 8)
    mixed = over_frames(lambda s: s.cumsum(1), x, 3).view(2, 3, 4, 5, 8)
    assert torch.allclose(mixed, x.view(2, 3, 4, 5, 8).cumsum(1))
    rows = over_pixels(lambda s: s.cumsum(1), x)
    assert torch.allclose(rows[4].flatten(0, 1), x[4].flatten(0, 1).cumsum(0), atol=1e-5)


# ------------------------------------------------------------------ the network


def test_forward_is_the_future_part_of_the_whole():
    net = small()
    x_t, t, condition = clip()
    frames = torch.cat([condition.past, x_t], dim=1)
    whole = net.velocity(frames, t, condition.trajectory)
    assert whole.shape == (2, 5, 4, 6, 6)
    assert torch.allclose(net(x_t, t, condition), whole[:, 3:], atol=1e-6)


def test_samples_of_a_batch_do_not_mix():
    net = small()
    x_t, t, condition = clip()
    alone = net(x_t[1:], t[1:], condition.index(slice(1, 2)))
    assert torch.allclose(net(x_t, t, condition)[1:], alone, atol=1e-5)


def test_missing_and_hidden_slots_are_zeros():
    net = small(past=4, history=2, trajectory_length=6)
    x_t, t, _ = clip()
    past, drive = torch.randn(2, 4, 4, 6, 6), torch.randn(2, 6, 2)
    zeroed, stopped = past.clone(), drive.clone()
    zeroed[:, :2], stopped[:, :2] = 0, 0
    expected = net(x_t, t, Condition(zeroed, trajectory=stopped))
    assert torch.equal(net(x_t, t, Condition(past, trajectory=drive)), expected)
    short = Condition(past[:, 2:], trajectory=drive[:, 2:])
    assert torch.equal(net(x_t, t, short), expected)
    shown = small(past=4, trajectory_length=6)
    shown.load_state_dict(net.state_dict())
    full = shown(x_t, t, Condition(past, trajectory=drive))
    assert not torch.allclose(full, expected, atol=1e-3)


def test_trajectory_counts_up_to_its_length():
    net = small(trajectory_length=3)
    x_t, t, condition = clip()
    later = condition.trajectory.clone()
    later[:, 3:] += 1
    assert torch.equal(net(x_t, t, condition), net(x_t, t, Condition(condition.past, None, later)))
    later[:, 2] += 1
    moved = net(x_t, t, Condition(condition.past, None, later))
    assert not torch.allclose(net(x_t, t, condition), moved, atol=1e-4)
    assert net(x_t, t, Condition(condition.past)).shape == x_t.shape


@pytest.mark.parametrize(
    "switch",
    [dict(head_merge="transpose"), dict(position_columns=6), dict(doubled_residual=False)],
)
def test_each_switch_changes_the_function_and_not_the_weights(switch):
    published, meant = small(), small(**switch)
    state = published.state_dict() | {"position": meant.position}
    meant.load_state_dict(state)
    x_t, t, condition = clip()
    assert not torch.allclose(published(x_t, t, condition), meant(x_t, t, condition), atol=1e-3)


def test_end_clock_starts_at_zero_and_then_tells_end_times_apart():
    one, two = small(), small(two_time=True)
    two.load_state_dict({**two.state_dict(), **one.state_dict()})
    x_t, t, condition = clip()
    v = one(x_t, t, condition)
    assert one.two_time is False and two.two_time is True
    assert torch.equal(two(x_t, t, condition, r=torch.ones(2)), v)
    assert torch.equal(two(x_t, t, condition), v)
    nn.init.normal_(two.end_clock[2].weight)
    assert not torch.allclose(two(x_t, t, condition, r=torch.ones(2)), v, atol=1e-3)


def test_recomputing_gives_the_same_gradients():
    plain, recomputing = small(), small(recompute=True)
    recomputing.load_state_dict(plain.state_dict())
    x_t, t, condition = clip()
    for net in (plain, recomputing):
        net(x_t, t, condition).square().mean().backward()
    for p, q in zip(plain.parameters(), recomputing.parameters()):
        assert torch.allclose(p.grad, q.grad, atol=1e-6)


def test_fixed_tables_stay_fixed_when_everything_is_trained():
    net = small().requires_grad_(True)
    assert not {"position", "frame_position"} & {name for name, _ in net.named_parameters()}
    assert {"position", "frame_position"} <= net.state_dict().keys()


def test_initial_modulation_is_not_zero():
    assert small().down[0].space.modulation.weight.std().item() > 0.01
    assert small().clock[0].weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("grad", [False, True])
def test_half_precision_stays_close(grad):
    net = small()
    x_t, t, condition = clip()
    with torch.set_grad_enabled(grad):
        v = net(x_t, t, condition)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x_t, t, condition)
    assert float((rough.float() - v).detach().norm() / v.detach().norm()) < 0.05


def test_rms_norm_of_zeros_in_half_precision():
    assert float(rms_norm(torch.zeros(1, 32, dtype=torch.float16), torch.ones(32)).abs().max()) == 0


def test_a_light_network_lacks_the_fine_blocks_over_pixels():
    """As if they were there with gates that are shut."""
    whole = small()
    fine = {"down.0.space", "up.1.space"}
    for name in fine:
        modulation = whole.get_submodule(name).modulation
        nn.init.zeros_(modulation.weight), nn.init.zeros_(modulation.bias)
    light = small(fine_pixels=False)
    kept = {k: v for k, v in whole.state_dict().items() if k.rsplit(".", 2)[0] not in fine}
    light.load_state_dict(kept)
    x_t, t, condition = clip()
    with torch.no_grad():
        torch.testing.assert_close(light(x_t, t, condition), whole(x_t, t, condition))


def test_forward_derivative_exists():
    """Flow-map methods differentiate the network along the path."""
    net = small()
    x_t, t, condition = clip()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        v, dv = torch.func.jvp(lambda x: net(x, t, condition), (x_t,), (torch.ones_like(x_t),))
    step = 1e-3
    with torch.no_grad():
        difference = (net(x_t + step, t, condition) - net(x_t - step, t, condition)) / (2 * step)
    assert torch.allclose(dv, difference, rtol=0.05, atol=5e-3)
    assert v.shape == x_t.shape


def test_conditions_that_do_not_fit_are_refused_in_one_sentence():
    net = small()
    x_t, t, condition = clip(past=4)
    with pytest.raises(UserError, match="4 past frames .* 3 slots"):
        net(x_t, t, condition)
    x_t, t, condition = clip(length=4)
    with pytest.raises(UserError, match="4 trajectory entries .* needs 5"):
        net(x_t, t, condition)


def test_an_unknown_head_merge_is_refused():
    with pytest.raises(ValueError, match="usual"):
        small(head_merge="usual")

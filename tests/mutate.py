"""Do the tests notice? Wrong formulas, one at a time, in a copy of the tree: `make mutate`.

Each change is a text edit that a tired programmer could make. The tests named with it must fail; a
change that they pass has survived. `python tests/mutate.py sid dmd2` tries only the changes of
files whose path has one of the words.

Each try is a fork of this process, which has imported the slow packages, and never ours.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmengine.runner  # noqa: F401
import pytest
import scipy.special  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED = 0, 1  # pytest's exit statuses; with another one no test has judged
OTHER_TREE = 100


class Change(NamedTuple):
    """`old`, which `file` holds once, becomes `new`; `tests` must notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def changes(file: str, tests: str, *edits: tuple[str, str]) -> list[Change]:
    """Edits of one file of the package, for the same test files, separated by spaces."""
    paths = tuple(f"tests/{test}.py" for test in tests.split())
    return [Change(f"occdistill/{file}.py", old, new, paths) for old, new in edits]


KIN = "distill/test_distribution_matching"
DEFAULTS = "distill/test_defaults"
EDGES = "distill/test_edges"
SENSEFLOW = "distill/test_dmd2"

CHANGES = [
    *changes(
        "distill/base",
        KIN,
        ("t, batch.condition)\n        loss =", "t, batch.condition.null())\n        loss ="),
        ("v - (sample_ - noise)", "v - (noise - sample_)"),
        ("noise, t), t, batch", "noise, t), 1 - t, batch"),
        ("return z + step_velocity", "return z - step_velocity"),
        ("z, 0.0, 1.0, condition)", "z, 0.0, 1.0, condition.null())"),
        ("(direction.detach() * x)", "(direction.detach() * x.detach() + 0 * x)"),
        ("surrogate(weight * gap, x)", "surrogate(gap, x)"),
        ('(self.ratio - round(fallen)) + ("student",)', '(self.ratio - 1) + ("student",)'),
        ("ratio: Count = 10", "ratio: Count = 5"),
    ),
    *changes(
        "distill/base",
        "distill/test_sid",
        ("net.requires_grad_(key == name)", "net.requires_grad_(True)"),
    ),
    *changes("distill/base", EDGES, ("**{**defaults, **(given or {})}", "**(given or defaults)")),
    *changes(
        "distill/mfd",
        KIN,
        ("x_t, u_A - u_T)", "x_t, u_T - u_A)"),
        ("matching_loss(x_t,", "matching_loss(x_1,"),
        ("(flows, start, t, r,", "(flows, start, t, t,"),
        ("self.latent_shape), t)", "self.latent_shape), r)"),
    ),
    *changes("distill/mfd", DEFAULTS, ("ode_step: Step = 0.02", "ode_step: Step = 0.05")),
    *changes("distill/mfd", EDGES, ("require(0 < ode_step", "require(0 <= ode_step")),
    *changes(
        "distill/velocity_matching",
        KIN,
        ("self.guided_teacher(", "self.teacher("),
        (
            '["auxiliary"](start, t, batch.condition)',
            '["auxiliary"](start, t, batch.condition.null())',
        ),
        ("v_A - v_T)", "v_T - v_A)"),
        ("matching_loss(x_t,", "matching_loss(x_1,"),
    ),
    *changes(
        "distill/diff_instruct",
        KIN,
        ("self.guided_teacher(", "self.teacher("),
        ('["auxiliary"](x_t, t, batch.condition)', '["auxiliary"](x_t, t, batch.condition.null())'),
        ("t: t**2 / (1 - t)", "t: t / (1 - t)"),
        ('"x1": lambda t: 1 - t', '"x1": lambda t: t'),
        ("v_A - v_T, self", "v_T - v_A, self"),
    ),
    *changes(
        "distill/diff_instruct",
        DEFAULTS,
        ("low=0.02, high=0.98", "low=0.001, high=0.999"),
        ("auxiliary_times or {}", "auxiliary_times"),
    ),
    *changes(
        "distill/diff_instruct",
        EDGES,
        ("torch.tensor(times.high) < 1", "torch.tensor(times.high) <= 1"),
    ),
    *changes(
        "distill/no_auxiliary",
        KIN,
        ("self.guided_teacher, x_t", "self.teacher, x_t"),
        (".detach() - u_T", ".detach() + u_T"),
    ),
    *changes(
        "distill/sid",
        "distill/test_sid",
        ("self.guided_teacher(", "self.teacher("),
        ('["auxiliary"](x_t, t, batch.condition)', '["auxiliary"](x_t, t, batch.condition.null())'),
        ("(1 - t) ** 2 /", "(1 - t) /"),
        ("- self.alpha * d", "+ self.alpha * d"),
        ("v_T - (x_1 - noise)", "v_T - (noise - x_1)"),
        ("d = v_T - v_A", "d = v_A - v_T"),
        ("d = v_T - v_A", "d = (v_T - v_A).detach()"),
        ("with torch.no_grad()", "with torch.enable_grad()"),
        ("2 * inner", "inner"),
    ),
    *changes("distill/sid", DEFAULTS, ("alpha: float = 1.0", "alpha: float = 1.2")),
    *changes(
        "distill/consistency",
        "distill/test_consistency",
        ("self.guided_teacher(", "self.teacher("),
        ("expand(later - t, x_t)", "expand(t - later, x_t)"),
        ("x_later, later, batch", "x_later, t, batch"),
        ("(distance / width)", "distance"),
        ("with torch.no_grad()", "with torch.enable_grad()"),
        ("1 - self.target_ema", "self.target_ema"),
    ),
    *changes("distill/consistency", DEFAULTS, ("None = 0.00054", "None = 0.0054")),
    *changes("distill/consistency", EDGES, (".clamp_min(RESOLUTION)", "")),
    *changes(
        "distill/ayf",
        "distill/test_ayf",
        ("v_T = self.guided_teacher(", "v_T = self.teacher("),
        ("- self.guided_teacher(", "- self.teacher("),
        ("u - v_T - k *", "u - v_T + k *"),
        ("k * expand(r - t, u) * d_t", "k * d_t"),
        ("u + gap * d_r", "u - gap * d_r"),
        ("(x_t + gap * u, r, condition)", "(x_t + gap * u, t, condition)"),
        ("u - g / expand(square.sqrt() + self.c, g)", "u - g / expand(square + self.c, g)"),
        ("u - g / expand(square.sqrt() + self.c, g)", "u - g"),
        ("u - g / expand", "u + g / expand"),
        ("with torch.no_grad()", "with torch.enable_grad()"),
        ("k = min(k, step / self.tangent_warmup)", "k = step / self.tangent_warmup"),
        ("t = (1 - gap) * draws", "t = draws"),
    ),
    *changes(
        "distill/ayf",
        DEFAULTS,
        ("tangent_max: float = 0.99", "tangent_max: float = 1.0"),
        ("gap_mean: float = -0.8", "gap_mean: float = 0.8"),
    ),
    *changes(
        "distill/meanflow",
        "distill/test_meanflow",
        ("self.guided_teacher(", "self.teacher("),
        ("v_T + fade", "v_T - fade"),
        ("fade * expand(r - t, x_t) * d_t", "fade * d_t"),
        ("min(1.0, step / self.tangent_warmup)", "step / self.tangent_warmup"),
        ("condition, v_T)", "condition, -v_T)"),
    ),
    *changes(
        "distill/flow_map",
        DEFAULTS,
        ("mean=0.4)", "mean=-0.4)"),
        ("instantaneous: float = 0.5", "instantaneous: float = 0.75"),
    ),
    *changes(
        "distill/losses",
        "distill/test_consistency",
        ("square.detach() + epsilon", "square + epsilon"),
        ("(square + c**2)", "(square + c)"),
    ),
    *changes(
        "distill/dmd2",
        SENSEFLOW,
        ("self.guided_teacher(", "self.teacher("),
        ('["auxiliary"](x_t, t, batch.condition)', '["auxiliary"](x_t, t, batch.condition.null())'),
        ("logits(x_t, t, batch.condition)", "logits(x_t, t, batch.condition.null())"),
        ("gap = v_A - v_T", "gap = v_T - v_A"),
        ("(1 - t) / error", "1 / error"),
        ("torch.cat([real_t, fake_t]), t", "torch.cat([fake_t, real_t]), t"),
        ("matching.total + self.generator_weight", "matching.total - self.generator_weight"),
        ("loss.total + self.discriminator_weight", "loss.total - self.discriminator_weight"),
    ),
    *changes(
        "distill/dmd2",
        DEFAULTS,
        ("generator_weight: float = 3e-3", "generator_weight: float = 3e-2"),
        ("ratio: Count = 5", "ratio: Count = 10"),
        ('law="uniform", low', 'law="logit_normal", low'),
    ),
    *changes(
        "distill/discriminator",
        SENSEFLOW,
        ("F.relu(1 - real)", "F.relu(1 + real)"),
        ("F.softplus(-real)", "F.softplus(real)"),
        ('-fake.mean() if kind == "hinge"', 'fake.mean() if kind == "hinge"'),
        ("else F.softplus(-fake)", "else F.softplus(fake)"),
        ("F.pad(volume, (0, right, 0, down))", "volume"),
    ),
    *changes(
        "distill/senseflow",
        SENSEFLOW,
        ("self.guided_teacher(", "self.teacher("),
        ("expand(1 - t, z)", "expand(t, z)"),
        ("with torch.no_grad()", "with torch.enable_grad()"),
        ("self.isg_weight * isg", "isg"),
        ("1 - self.ida", "self.ida"),
        ('if name == "student"', 'if name == "auxiliary"'),
        ("+ self.isg_margin", ""),
    ),
    *changes("distill/senseflow", DEFAULTS, ("isg_weight: float = 0.5", "isg_weight: float = 1.0")),
    *changes(
        "distill/regression",
        "distill/test_regression",
        ("sample(self.guided_teacher", "sample(self.teacher"),
        ("square / 2", "square"),
        ("self.steps, self.shift)", "self.steps, 1.0)"),
    ),
    *changes(
        "flow/path",
        "flow/test_path",
        ("return t * x_1 + (1 - t) * x_0", "return (1 - t) * x_1 + t * x_0"),
        ("x_t + (1 - expand(t, x_t)) * v", "x_t + expand(t, x_t) * v"),
        ("(t * v - x_t) / (1 - t)", "(t * v - x_t) / t"),
        ("self._draw(draws, 2).sort(dim=1).values", "self._draw(draws, 2)"),
        ("self.low + (self.high - self.low) *", "self.low + self.high *"),
    ),
    *changes(
        "flow/path",
        DEFAULTS,
        ("low: float = 1e-3", "low: float = 0.0"),
        ("high: float = 1.0 - 1e-3", "high: float = 1.0"),
    ),
    *changes(
        "flow/guidance",
        "flow/test_solver",
        ("torch.lerp(v_null, v_cond,", "torch.lerp(v_cond, v_null,"),
        ("else [condition.null(), condition]", "else [condition, condition]"),
    ),
    *changes(
        "flow/guidance", KIN, ("v_T, v_A = self.guided(x_T,", "v_T, v_A = self.guided.field(x_T,")
    ),
    *changes(
        "flow/guidance",
        "flow/test_adapters",
        ("Condition.cat([*branches, condition])", "Condition.cat([condition, *branches])"),
        ("plain=plain * size", "plain=0"),
        ("[x_T] * plain + [x_A]", "[x_T] * plain + [x_T]"),
        ("self.guided.combine(v_T), v_A]", "self.guided.combine(v_T), v_T[:size]]"),
    ),
    *changes(
        "flow/adapters",
        "flow/test_adapters",
        ("nn.init.zeros_(self.up.weight)", ""),
        ("copy.deepcopy(network, shared)", "copy.deepcopy(network)"),
        ("shape._forward_hooks.clear()", "pass"),
        ("return output + adapter(args[0])", "return output - adapter(args[0])"),
        (
            "output[first:] += adapter(args[0][first:])",
            "output[:first] += adapter(args[0][:first])",
        ),
        ("rank = min(rank, inside, outside)", ""),
        ("self.down = nn.Conv2d(inside, rank, *window", "self.down = nn.Conv2d(inside, rank, 1"),
    ),
    *changes(
        "distill/base",
        "distill/test_price",
        ("min(1.0, step / self.fall)", "step / self.fall"),
        ("(self.ratio - self.final_ratio)\n", "self.ratio\n"),
        ('self.reuse if name == "auxiliary" else 1', "self.reuse"),
        ("range(0, updates, uses)", "range(updates)"),
        ("        if batch.sample is None:\n    ", "    "),
        ("(2 if whole else 1) if", "2 if"),
        ("base = teacher if auxiliary_base", "base = student if auxiliary_base"),
    ),
    *changes(
        "flow/solver",
        "flow/test_solver",
        ("/ count, condition.index(order)", "/ count, condition"),
        ("t + k * dt, dt, condition", "t, dt, condition"),
        ("x = x + expand(dt, v) * v", "x = x + expand(dt, v)"),
        ("half = dt / 2", "half = dt"),
        ("* field(x, t, c), t + half, c)", "* field(x, t, c), t, c)"),
        ("x + expand(half, x) * field", "x - expand(half, x) * field"),
        ("x + expand(dt, x) * v, t + dt, c", "x, t + dt, c"),
        ("x + expand(dt, x) * v, t + dt, c", "x + expand(dt, x) * v, t, c"),
        ("torch.empty_like(mean).index_copy_(0, order, mean)", "mean"),
        ("total / expand(count, total)", "total"),
        ("(end - t) * step_velocity", "end * step_velocity"),
        ("shift * s / (1 + (shift - 1) * s)", "s"),
    ),
    *changes(
        "flow/derivatives",
        "flow/test_derivatives",
        ("x + expand(h, x) * v, t + h, r\n", "x, t + h, r\n"),
        ("return x, t, r + h", "return x, t + h, r"),
    ),
    *changes(
        "training/updates",
        "training/test_updates",
        (
            "            return None\n        self.count += 1",
            "            self.count += 1\n            return None\n        self.count += 1",
        ),
        ("init_scale=loss_scale, ", ""),
        ("currents, 1 - decay", "currents, decay"),
        ("(self.lr - self.final_lr) * 0.5", "(self.lr - self.final_lr)"),
    ),
    *changes("distill/base", "distill/test_take_step", ("if norm is not None:", "if True:")),
    *changes("training/trainer", "training/test_updates", ("loss_scale=s.loss_scale,", "")),
    *changes(
        "training/exchange",
        "training/test_exchange",
        ("hands[:: -1 if turn % 2 else 1]", "hands"),
        ("for k in order", "for k in range(self.steps)"),
        ("(self.seed, *p)", "(self.seed + 1, *p)"),
    ),
    *changes(
        "distill/mfd",
        "training/test_exchange",
        ("        draws.normal(*self.latent_shape)  # what the student starts from\n", ""),
    ),
    *changes("distill/no_auxiliary", "training/test_exchange", ("in range(2)", "in range(1)")),
    *changes("pieces", "test_pieces", ("make(first + start, first + stop)", "make(start, stop)")),
    *changes(
        "evaluation/shards",
        "evaluation/test_shards",
        ("size = batch_size * -(-wanted // batch_size)", "size = wanted"),
    ),
    *changes("evaluation/sums", "evaluation/test_shards", ("return state + (", "return (")),
    *changes("evaluation/counts", "evaluation/test_shards", ("[first : first + len", "[: len")),
    *changes(
        "evaluation/measures/latent",
        "evaluation/test_shards",
        ("self.count = start + count", "self.count = count"),
    ),
    *changes(
        "flow/networks/occfm",
        "flow/test_occfm_network",
        ("self.to_future(seen, count)", "self.to_future(seen.flip(0), count)"),
        ("nn.init.zeros_(self.aligned_in.weight)", "pass"),
    ),
    *changes(
        "latents/codec",
        "training/test_aligned",
        ('encode if self.aligned_by == "full" else self.encode_aligned', "encode"),
    ),
    *changes(
        "distill/second_order",
        "distill/test_second_order",
        ("start, end = a - b / 2, 1 - a - b / 2", "start, end = a + b / 2, 1 - a - b / 2"),
        ("1 - a - b / 2\n", "1 - a + b / 2\n"),
        ("v_t + gap * d_t,", "v_t - gap * d_t,"),
        ("start * d_t - end * d_r", "start * d_t + end * d_r"),
        ("d_r) - second", "d_r) + second"),
        ("b / 2 * gap**2 * d_tr", "b * gap**2 * d_tr"),
        ("b / 2 * gap**2 * d_tr", "b / 2 * gap * d_tr"),
        ("ends + gap * (start", "ends + (start"),
        ("x_t + gap * u, r, condition", "x_t + gap * u, t, condition"),
        ("x_t + gap * u, r, condition", "x_t, r, condition"),
        ("a * v_t + (1 - a) * self", "(1 - a) * v_t + a * self"),
        ("with torch.no_grad():\n            first", "if True:\n            first"),
        ("self.targets(u, x_t, t, r", "self.targets(u, x_t, r, t"),
        ("u - first), (1 -", "u.detach() - first), (1 -"),
        ("self.first_order, u - member", "self.first_order, u.detach() - member"),
        ("v_t = self.guided_teacher", "v_t = self.teacher"),
        ("(1 - a) * self.guided_teacher", "(1 - a) * self.teacher"),
        ("min(1.0, step", "max(1.0, step"),
        ("d_tr, ends)", "d_tr, u)"),
        ("self.clip * bound", "bound"),
        (".clamp_max(1)", ""),
        ("x_t, t, batch.condition, r=r)", "x_t, t, batch.condition.null(), r=r)"),
    ),
    *changes(
        "flow/derivatives",
        "distill/test_second_order flow/test_derivatives",
        ("stack([d_t, d_r, d_tr], dim=1)", "stack([d_r, d_t, d_tr], dim=1)"),
        (
            "line(late, later) - line(late, -sooner) - line(-early, later)",
            "line(late, later) - line(late, -sooner) + line(-early, later)",
        ),
        ("(t, gap / 2, rest))", "(t, gap, rest))"),
        ("(early + late) * (sooner + later)", "(early + late) * (early + later)"),
        ("expand(h, x) * v, t + h, r + k", "x * 0, t + h, r + k"),
    ),
    *changes(
        "distill/flow_map",
        "distill/test_second_order",
        ("< self.instantaneous, t, r)", "> self.instantaneous, t, r)"),
        (".flatten(1).sum(1), self.power", ".flatten(1).mean(1), self.power"),
        ("share * self.distance", "self.distance"),
        ("self.distance(rest, t, r, step)", "self.distance(rest.detach() + 0 * rest, t, r, step)"),
        ("times, mean=0.4)", "times, mean=-0.4)"),
    ),
    *changes(
        "distill/improved_meanflow",
        "distill/test_improved_meanflow",
        ("r=r) - expand(r - t, x_t)", "r=r) + expand(r - t, x_t)"),
        ("- expand(r - t, x_t) * d_t", "- d_t"),
        ("expand(r - t, x_t)", "expand(t - r, x_t)"),
        ("now = student(x_t, t, condition, r=t)", "now = student(x_t, t, condition, r=r)"),
        ("now = student(x_t, t, condition, r=t)", "now = student(x_t, t, condition, r=t).detach()"),
        (
            "implied = student(x_t, t, condition, r=r)",
            "implied = student(x_t, t, condition, r=r).detach()",
        ),
        ("along = now.detach()", "along = target"),
        ("with torch.no_grad():", "if True:"),
        ("x_t, t, r, condition, along)", "x_t, t, t, condition, along)"),
        ("r, condition, along)", "r, condition.null(), along)"),
        ("now - target), (1.0", "target), (1.0"),
        ("self.instantaneous_weight, now", "1.0, now"),
        ("return self.guided_teacher", "return self.teacher"),
        ("along = self.guided_teacher", "along = self.teacher"),
        ("(batch.x_1 - x_t) / expand(1 - t, x_t)", "(batch.x_1 - x_t)"),
        ("(batch.x_1 - x_t)", "(x_t - batch.x_1)"),
        ("1 - 1 / self", "1 / self"),
        ("(now - free)", "(free - now)"),
        ("batch.condition.null(), r=t)", "batch.condition, r=t)"),
    ),
    *changes(
        "distill/alphaflow",
        "distill/test_alphaflow",
        ("q = t + self", "q = t - self"),
        ("(q - t, x_t) * v_T", "(r - t, x_t) * v_T"),
        ("(q - t, x_t) * v_T", "(q - t, x_t) * 0"),
        ("a * v_T + (1 - a) * student", "(1 - a) * v_T + a * student"),
        ("student(x_q, q, condition, r=r)", "student(x_q, t, condition, r=r)"),
        ("student(x_q, q, condition, r=r)", "student(x_t, q, condition, r=r)"),
        ("student(x_q, q, condition, r=r)", "student(x_q, q, condition, r=q)"),
        ("student(x_q, q, condition, r=r)", "student(x_q, q, condition.null(), r=r)"),
        ("with torch.no_grad():", "if True:"),
        ("return a * adaptive", "return adaptive"),
        ("(residual / expand(a, residual))", "residual"),
        ("torch.where(r > t,", "torch.where(r > t - 1,"),
        ("v_T + expand(r - t, x_t) * d_t", "v_T - expand(r - t, x_t) * d_t"),
        ("self.guided_teacher(x_t", "self.teacher(x_t"),
        ("target.clamp(-self.clip, self.clip)", "target"),
        ("self.sharpness * (progress - 0.5)", "self.sharpness * (0.5 - progress)"),
        ("0.0 if a < 0.005 else", "a if a < 0.005 else"),
        ("1.0 if a > 0.995", "a if a > 0.995"),
        ("condition, r=r) - target)]", "condition, r=r).detach() - target)]"),
    ),
    *changes(
        "distill/weighted",
        "distill/test_weighted",
        ("gap = 1 - s + self", "gap = 1 + s + self"),
        ("s * (1 - (r - t))", "s * (r - t)"),
        ("s * (1 - (r - t))", "(1 - (r - t))"),
        ("s = 1 - min(1.0", "s = min(1.0"),
        ("** self.exponent", ""),
        ("1 / self._mean(lambda", "self._mean(lambda"),
        ("1 / self._mean(self._min_snr, share)", "1.0"),
        ("torch.where(r > t, gap, velocity)", "torch.where(r > t, velocity, gap)"),
        ("minimum(t**2, self.snr * (1 - t) ** 2)", "minimum((1 - t)**2, self.snr * t ** 2)"),
        ("minimum(t**2, self.snr * (1 - t) ** 2)", "minimum(t**2, (1 - t) ** 2)"),
        ("torch.minimum(t**2", "torch.maximum(t**2"),
        ("self.part(step)]), step)", "-1]), step)"),
        ("self.share * below", "below"),
        ("(1 - chance(small.double())) ** 2", "(1 - chance(small.double()))"),
        ("x.shape[1] != 2", "False"),
        ("part / parts for part in range(1, parts + 1)", "1.0 for part in range(1, parts + 1)"),
        ("step * self.parts // self.steps", "step // self.steps"),
        ("1 - (r - t), share)", "1 - (r - t), 1)"),
        ("self._min_snr, share)", "self._min_snr, 1)"),
    ),
    *changes(
        "distill/terminal_velocity",
        "distill/test_terminal_velocity",
        ("u + length * d_r - v_T", "u - length * d_r - v_T"),
        ("u + length * d_r - v_T", "u + d_r - v_T"),
        ("u + length * d_r - v_T", "u + length * d_r.detach() - v_T"),
        ("u + length * d_r - v_T", "u.detach() + length * d_r - v_T"),
        (
            "with torch.no_grad():\n            v_T = self.guided_teacher(x_t",
            "if True:\n            v_T = self.guided_teacher(x_t",
        ),
        ("x_t + length * u, r, batch", "x_t, r, batch"),
        ("x_t + length * u, r, batch", "x_t + length * u, t, batch"),
        ("x_t + length * u, r, batch", "x_t - length * u, r, batch"),
        ("v_T = self.guided_teacher(x_t", "v_T = self.teacher(x_t"),
        ("v_T = self.guided_teacher(x_r", "v_T = self.teacher(x_r"),
        (
            "value_and_end_derivative(x_t, t, r, batch.condition)",
            "value_and_end_derivative(x_t, t, r, batch.condition.null())",
        ),
        ("value_and_end_derivative(x_t, t, r, b", "value_and_end_derivative(x_t, t, t, b"),
        ("self.empty_weight * self.empty_step", "self.empty_step"),
        ("batch.condition, r=r)", "batch.condition, r=torch.ones_like(r))"),
        ("u - v_T).square()", "u.detach() - v_T).square()"),
        ("below + (1 - below) * chance", "chance"),
        ("(r - gap.to(chance.dtype))", "(1 - gap.to(chance.dtype))"),
        ("(logit - self.end_mean) / self.end_std", "(logit - self.end_mean)"),
        ("times, mean=0.4)", "times, mean=-0.4)"),
    ),
    *changes(
        "flow/derivatives",
        "distill/test_terminal_velocity",
        ("grad and torch.is_grad_enabled()", "False"),
        ("line(torch.zeros_like(room[0]))", "line(room[0])"),
    ),
    *changes(
        "distill/composition",
        "distill/test_composition",
        ("q = (t + r) / 2", "q = (r - t) / 2"),
        ("expand(q - t, x_t) * first", "expand(r - t, x_t) * first"),
        ("x_t + expand(q - t, x_t) * first", "x_t"),
        ("first, q, c, r=r)", "first, q, c, r=q)"),
        ("first, q, c, r=r)", "first, t, c, r=r)"),
        ("first = u(x_t, t, c, r=q)", "first = u(x_t, t, c, r=r)"),
        ("(first + second) / 2", "(first + second)"),
        ("with torch.no_grad():", "if True:"),
        ("self.guided_teacher", "self.teacher"),
        ("c, r=t) - v_T", "c, r=r) - v_T"),
        ("c, r=r) - (first", "c.null(), r=r) - (first"),
        ("whole + empty, {", "whole - empty, {"),
        ("(u(x_t, t, c, r=r) -", "(u(x_t, t, c, r=r).detach() -"),
    ),
    *changes(
        "distill/progressive_distillation",
        "distill/test_progressive_distillation",
        ("one * v + two * field", "one * v - two * field"),
        ("one * v + two * field", "two * v + one * field"),
        ("/ (one + two)", ""),
        ("x_t + one * v, q,", "x_t + one * v, t,"),
        ("x_t + one * v, q,", "x_t + two * v, q,"),
        ("x_t + one * v, q,", "x_t, q,"),
        ("self.guided_teacher if stage == 0", "self.teacher if stage == 0"),
        ("if stage == 0 else self.previous", "if stage >= 0 else self.previous"),
        ("stage == 0 else self.previous", 'stage == 0 else self.nets["student"]'),
        ("self.grid[:: 2**stage]", "self.grid"),
        ("torch.maximum(t, 1 - t) ** 2", "torch.maximum(t, 1 - t)"),
        ("(x_t, t, batch.condition) - target", "(x_t, q, batch.condition) - target"),
        ("if stage != int(self.handed_over)", "if stage == int(self.handed_over)"),
        ("self.handed_over.fill_(stage)", "pass"),
        ("step // self.stage, self.stages - 1", "step // self.stage, self.stages - 2"),
        ('frozen(copy.deepcopy(self.nets["student"]))', 'copy.deepcopy(self.nets["student"])'),
        ("shifted_grid(steps, shift)", "shifted_grid(steps)"),
    ),
    *changes(
        "distill/reflow",
        "distill/test_reflow",
        ("v - (x_1 - z)", "v - (z - x_1)"),
        ("interpolate(x_1, z, t)", "interpolate(z, x_1, t)"),
        ("interpolate(x_1, z, t)", "interpolate(x_1, batch.draws.normal(*self.latent_shape), t)"),
        ("v - (x_1 - z)", "v - (x_1 - batch.draws.normal(*self.latent_shape))"),
        ("sample(self.guided_teacher", "sample(self.teacher"),
        ("self.steps, self.shift)", "self.steps)"),
        ("self.steps, self.shift)", "10, self.shift)"),
        ("z, t), t, batch", "z, t), 1 - t, batch"),
        ("t, batch.condition)", "t, batch.condition.null())"),
        ('law="uniform", low=0.0, high=1.0', 'law="uniform"'),
    ),
    *changes(
        "distill/moment_matching",
        "distill/test_moment_matching",
        ("+ expand(r - t, x) * self", "- expand(r - t, x) * self"),
        ("+ expand(r - t, x) * self", "+ self"),
        ("interpolate(x_1, x_0, q_), q_, r_", "interpolate(x_1, x_0, t_), q_, r_"),
        ("interpolate(x_1, x_0, q_), q_, r_", "interpolate(x_1, x_0, q_), t_, r_"),
        ("interpolate(x_1, x_0, t_), t_, r_", "interpolate(x_0, x_1, t_), t_, r_"),
        ("with torch.no_grad():\n            later", "if True:\n            later"),
        ("- 2 * self.kernel", "- self.kernel"),
        ("- 2 * self.kernel", "+ 2 * self.kernel"),
        ("self.kernel(y, y, t)", "self.kernel(y, y.detach(), t)"),
        ("self.width * (1 - t) * a", "self.width * t * a"),
        ("* a.shape[-1]", ""),
        ("self.width * (1 - t)", "(1 - t)"),
        ("self.weight(t) * gap", "gap"),
        ("self.bias - snr", "self.bias + snr"),
        ("2 * torch.log(t / (1 - t))", "torch.log(t / (1 - t))"),
        ("/ (t * (1 - t))", ""),
        ("t**self.power /", "t /"),
        ("/ (t**2 + (1 - t) ** 2)", ""),
        ("(1 - t) / t - self.n_max", "(1 - t) / t + self.n_max"),
        ("2**self.halvings", "self.halvings"),
        ("torch.minimum(1 / (1 + n), r)", "1 / (1 + n)"),
        ("r = t + (1 - t) * rest", "r = rest"),
        ("sample(self.guided_teacher", "sample(self.teacher"),
        ("condition, self.steps)", "condition)"),
        ("x_1.repeat_interleave(self.particles, 0)", "x_1.repeat(self.particles, 1, 1, 1, 1)"),
        ("(x, t, condition, r=r)", "(x, t, condition.null(), r=r)"),
    ),
    *changes(
        "distill/decoupled",
        "distill/test_decoupled",
        ("target + expand(r - t, x_t) * d_t", "target - expand(r - t, x_t) * d_t"),
        ("target + expand(r - t, x_t) * d_t", "target + d_t"),
        ("self.guided_teacher(x_t", "self.teacher(x_t"),
        ("batch.condition, r=r) - target", "batch.condition, r=t) - target"),
        ("batch.condition, r=r) - target", "batch.condition.null(), r=r) - target"),
        ("x_t, t, r, batch.condition, target)", "x_t, r, t, batch.condition, target)"),
        ("self.rho(velocity) + self.rho(average)", "self.rho(average)"),
        ("(velocity) + self.rho(average)) / 2", "(velocity) + self.rho(average))"),
        ("+ 0.01).log()", "+ 0.1).log()"),
        ("mean=-0.4)", "mean=0.4)"),
        ("mean=1.2)", "mean=-1.2)"),
        ("return torch.minimum(one, other), torch.maximum(one, other)", "return one, other"),
        ("decoupled(teacher) if", "teacher if"),
    ),
    *changes(
        "flow/networks/small",
        "distill/test_decoupled",
        ("skips.pop()], dim=1), late_e)", "skips.pop()], dim=1), frame_e)"),
        ("h = layer(h, frame_e)", "h = layer(h, late_e)"),
        ("self.embed(r, condition, None, told)", "self.embed(r - t, condition, None, told)"),
    ),
    *changes(
        "flow/networks/occfm",
        "distill/test_decoupled",
        ("self.block(self.middle2, x, late_e)", "self.block(self.middle2, x, e)"),
        ("self.block(self.middle1, x, e)", "self.block(self.middle1, x, late_e)"),
        ("self.embed(r, trajectory, None, told)", "self.embed(r - t, trajectory, None, told)"),
    ),
    *changes(
        "distill/flow_map",
        "distill/test_decoupled",
        ("if DECOUPLED in weights:", "if False:"),
        ("if network.end_clock is not None:\n        raise", "if False:\n        raise"),
    ),
    *changes(
        "distill/freeflow",
        "distill/test_freeflow",
        ("v_T - length * self.end", "v_T + length * self.end"),
        ("v_T - length * self.end", "v_T - self.end"),
        ("z + length * u, d, condition", "z - length * u, d, condition"),
        ("z + length * u, d, condition", "z, d, condition"),
        ("z + length * u, d, condition", "z + length * u, zero, condition"),
        ("self.end_derivative(z, zero, d", "self.end_derivative(z, d, d"),
        ("with torch.no_grad():\n            v_T", "if True:\n            v_T"),
        ("with torch.no_grad():\n            x_q", "if True:\n            x_q"),
        ("v_T = self.guided_teacher(z", "v_T = self.teacher(z"),
        ("(self.teacher, self.guided_teacher))", "(self.guided_teacher, self.teacher))"),
        ("q >= self.guided_from", "q <= self.guided_from"),
        ("interpolate(z + u, noise, q)", "interpolate(noise, z + u, q)"),
        ("interpolate(z + u, noise, q)", "interpolate(z + u, z, q)"),
        ("interpolate(z + u, noise, q)", "interpolate(u, noise, q)"),
        ("batch.condition) - v_T", "batch.condition.null()) - v_T"),
        ("surrogate(gap, velocity)", "surrogate(-gap, velocity)"),
        ("(1 - self.share) * scale", "scale"),
        ("self.share * prediction", "prediction"),
        ("self.strength * size / other", "self.strength * other / size"),
        ("self.strength * size", "size"),
        ("batch.condition, r=d)", "batch.condition, r=1 - d)"),
        ("torch.zeros_like(d), batch.condition, r", "d, batch.condition, r"),
        ("mean=-0.8, low=0.0", "mean=0.8, low=0.0"),
        ("ratio: int = 1,", "ratio: int = 2,"),
        ('setdefault("auxiliary_times", {})', 'setdefault("auxiliary_times", None)'),
    ),
    *changes(
        "distill/adversarial",
        "distill/test_adversarial",
        ("self.guided_teacher, noise", "self.teacher, noise"),
        ("return true_futures(batch)", "return self.generate(batch)"),
        ("torch.cat([t_real, t_fake])", "torch.cat([t_fake, t_real])"),
        ("real, fake = self.nets", "fake, real = self.nets"),
        ("gan + self.r1_weight * r1", "gan - self.r1_weight * r1"),
        ("gan + self.r1_weight * r1", "gan + self.r1_weight * r1.detach()"),
        ("x + self.r1_std * batch", "x + self.r1_std**2 * batch"),
        ("(h - self.nets", "(h.detach() - self.nets"),
        ("*self.latent_shape), t), t", "*self.latent_shape), 1 - t), t"),
        ("*self.latent_shape), t), t", "*self.latent_shape), t), 1 - t"),
        (
            "with torch.no_grad():\n            x_real",
            "with torch.enable_grad():\n            x_real",
        ),
        (
            "self.adversarial(self.generate(batch), batch)",
            "self.adversarial(self.generate(batch).detach(), batch)",
        ),
        ('* self.ratio + ("student",)', '+ ("student",)'),
        ("fake < 0", "fake > 0"),
        ('law="uniform")', 'law="logit_normal")'),
        ("self._count_evaluations(discriminator.flow)", "pass"),
        (
            "make_discriminator(teacher, taps, heads)  #",
            "make_discriminator(teacher, taps, None)  #",
        ),
    ),
    *changes(
        "distill/discriminator",
        "distill/test_adversarial",
        ("-fake.mean() if", "fake.mean() if"),
        (
            "F.relu(1 - real).mean() + F.relu(1 + fake)",
            "F.relu(1 + real).mean() + F.relu(1 - fake)",
        ),
        (
            "F.softplus(-real).mean() + F.softplus(fake)",
            "F.softplus(real).mean() + F.softplus(-fake)",
        ),
    ),
    *changes(
        "distill/add",
        "distill/test_adversarial",
        ("self.guided_teacher(", "self.teacher("),
        ("gan + self.anchor_weight * anchor", "gan - self.anchor_weight * anchor"),
        ("gan + self.anchor_weight * anchor", "gan + anchor"),
        ('"signal": torch.square', '"signal": torch.ones_like'),
        (
            "self.anchor(t) * per_sample((x_1 - target)",
            "self.anchor(1 - t) * per_sample((x_1 - target)",
        ),
        ("(x_1 - target).square()", "(x_1.detach() - target).square()"),
        ("with torch.no_grad():\n            x_t", "with torch.enable_grad():\n            x_t"),
        (
            "x_t, t, batch.condition), t)\n        return (self",
            "x_t, t, batch.condition.null()), t)\n        return (self",
        ),
        ("g.square().flatten", "g.flatten"),
        ("create_graph=True", "create_graph=False"),
        ("low=1.0, high=1.0", "low=0.5, high=0.5"),
        ("denoise(x_s, self.nets", "denoise(0 * x_s, self.nets"),
        ("batch.condition), s)", "batch.condition), 1 - 0 * s)"),
        ("* len(self.starts)).long()", "* 1).long()"),
    ),
    *changes(
        "distill/ladd",
        "distill/test_adversarial",
        ("mean=-1.0", "mean=1.0"),
        ("source=teacher", "source=None"),
    ),
    *changes(
        "distill/apt",
        "distill/test_adversarial",
        ("return x_1, self.gan", "return x_1.detach(), self.gan"),
        ("self.gan_times.times(batch.draws)", "x_1.new_ones(len(x_1))"),
        ("copy.deepcopy(teacher)", "teacher"),
        ("r1_weight: float = 100.0", "r1_weight: float = 1.0"),
    ),
    *changes(
        "distill/diff_ratio",
        "distill/test_divergences",
        ("loss = -(self", "loss = (self"),
        ("log_ratio.detach()) * log_ratio)", "log_ratio) * log_ratio)"),
        ("self.weight(log_ratio.detach())", "self.weight(-log_ratio.detach())"),
        ("* log_ratio).mean()", "* log_ratio.detach() + 0 * log_ratio).mean()"),
        (
            "self.shown(self.generate(batch), batch)",
            "self.shown(self.generate(batch).detach(), batch)",
        ),
        ("x_t, t, batch.condition)", "x_t, 1 - t, batch.condition)"),
        ("copy.deepcopy(teacher)", "teacher"),
        ("require(self.gan", "require(True or self.gan"),
        ('] = "reverse_kl"', '] = "forward_kl"'),
    ),
    *changes(
        "distill/losses",
        "distill/test_divergences",
        ('"forward_kl": torch.exp', '"forward_kl": lambda l: (-l).exp()'),
        ('"jensen_shannon": torch.sigmoid', '"jensen_shannon": lambda l: torch.sigmoid(-l)'),
        ("lambda l: 1 + l.exp()", "lambda l: l.exp() - 1"),
        ('"reverse_kl": torch.ones_like', '"reverse_kl": torch.exp'),
    ),
    *changes(
        "distill/f_distill",
        "distill/test_divergences",
        ("weight / weight.mean()", "weight"),
        ("weight / weight.mean()", "weight / weight.sum()"),
        ("per_sample(logits)", "-per_sample(logits)"),
        ("require(self.gan", "require(True or self.gan"),
        ("x_t, t, batch.condition)", "0 * x_t, t, batch.condition)"),
        ('] = "jensen_shannon"', '] = "forward_kl"'),
    ),
    *changes("distill/dmd2", "distill/test_divergences", (" * self.emphasis(x_t, t, batch)", "")),
    *changes(
        "distill/flow_generator_matching",
        "distill/test_named_weights",
        ('"alpha": 0.5', '"alpha": 1.0'),
        ('"weight": "velocity"', '"weight": "denoiser"'),
    ),
    *changes(
        "distill/diff_instruct",
        "distill/test_named_weights",
        ('{"weight": "score"}', '{"weight": "x1"}'),
        ('{"weight": "velocity"}', '{"weight": "x1"}'),
        ("t: t**2 / (1 - t)", "t: t / (1 - t)"),
        ('"velocity": lambda t: t', '"velocity": lambda t: 1 + 0 * t'),
    ),
    *changes(
        "flow/networks/small",
        "distill/test_adversarial",
        ("and not isinstance(after, ResBlock)", ""),
        ('(*ends("down"), *self.taps, *ends("up"))', '(*self.taps, *ends("down"), *ends("up"))'),
    ),
    *changes(
        "flow/networks/occfm",
        "distill/test_adversarial",
        ("conv2.out_channels, True) for", "conv2.out_channels) for"),
    ),
    *changes(
        "distill/base",
        "distill/test_steps",
        ("z, batch.condition, self.steps)", "z, batch.condition)"),
        ("z, batch.condition, self.steps)", "z, batch.condition.null(), self.steps)"),
        ("self.nfe if steps is None else steps", "steps or 1"),
        ("return self.steps\n", "return 1\n"),
        ("type(steps) is int and steps >= 1", "steps >= 1"),
    ),
    *changes(
        "flow/solver",
        "distill/test_steps",
        ("x = x + (end - t) * step", "x = x.detach() + (end - t) * step"),
        (
            "step_velocity(field, x, t, end, condition)",
            "step_velocity(field, x.detach(), t, end, condition)",
        ),
    ),
    *changes(
        "distill/senseflow",
        "distill/test_steps",
        ("require(self.steps == 1", "require(self.steps >= 1"),
    ),
    *changes(
        "distill/x_prediction",
        "distill/test_x_prediction",
        ("condition, r=r)", "condition, r=t)"),
        ("self.distance(u - target", "self.distance(u + target"),
        ("denoise(x_t, u, t)[clear]", "denoise(x_t, u, 1 - t)[clear]"),
        ("denoise(x_t, u, t)[clear]", "denoise(x_t, u.detach(), t)[clear]"),
        ("t > self.clear_from", "t < self.clear_from"),
        ("adaptive(decoded).sum() / len(t)", "adaptive(decoded).mean()"),
        ("adaptive(decoded).sum()", "decoded.sum()"),
        ("self.decoded_weight * adaptive", "adaptive"),
        ("found / self.decoder.scale", "found"),
        ('parts["cross_entropy"] + parts["lovasz"]', 'parts["cross_entropy"]'),
        ('"yes, and the decoder", LATEST', '"yes, and the decoder", 1.0'),
        ("frozen(decoder)", "decoder"),
    ),
    *changes(
        "distill/flow_map",
        "distill/test_meanflow distill/test_x_prediction",
        ("[:, 0] < self.instantaneous", "[:, 0] >= self.instantaneous"),
        ("torch.where(r > t, r, start)", "torch.where(r > t, start, r)"),
        ("t.clamp_max(self.latest)", "t.clamp_min(self.latest)"),
    ),
    *changes(
        "flow/solver",
        "flow/test_solver",
        ("end = r if renoise is None else 1.0", "end = r"),
        ("x = r * x + (1 - r) * renoise", "x = (1 - r) * x + r * renoise"),
        ("(1 - r) * renoise * fresh", "(1 - r) * fresh"),
        ("z.tobytes(), digest_size", "b'', digest_size"),
    ),
    *changes(
        "distill/meta_flow_map",
        "distill/test_meta_flow_map",
        ("self.guided_teacher(", "self.teacher("),
        ("- w - expand(b - a, y) * d_a", "- w + expand(b - a, y) * d_a"),
        ("expand(b - a, y) * d_a", "d_a"),
        ("told(y, a, condition, b)", "told(y, b, condition, a)"),
        ("condition, r=r, outer", "condition, r=a, outer"),
        ("y, a, b, condition, w)", "y, a, b, condition, -w)"),
        ("(t / (1 - t)) ** 2, (a", "t / (1 - t), (a"),
        ("(1 + both.sqrt())", "(1 + both)"),
        ("t / (1 - t) ** 2, y) * x_t", "1 / (1 - t) ** 2, y) * x_t"),
        ("a / (1 - a) ** 2, y) * y", "a / (1 - a), y) * y"),
        ("expand(s / both, y)", "expand(1 / both, y)"),
        ("(x_s, s, condition), s)", "(x_s, s, condition), t)"),
        ("(clean - y) /", "(y - clean) /"),
        ("expand(1 - a, y)\n\n    @", "expand(1 - t, y)\n\n    @"),
        ("return noise + self", "return noise - self"),
        ("outer_times, high=LATEST", "outer_times, high=0.5"),
        ('"inner start", LATEST', '"inner start", 1.0'),
    ),
    *changes(
        "distill/transition_matching",
        "distill/test_transition_matching",
        ("w - (y - e) - expand", "w + (y - e) - expand"),
        ("w - (y - e) - expand", "w - (e - y) - expand"),
        ("- expand(b - a, w) * d_a", "+ expand(b - a, w) * d_a"),
        ("expand(b - a, w) * d_a", "d_a"),
        ("inner, y_a, a, b, condition, y - e)", "inner, y_a, a, b, condition, y)"),
        ("inner, y_a, a, b, condition, y - e)", "inner, y_a, b, a, condition, y - e)"),
        ("(features, y_a, a, b)", "(features, y_a, b, a)"),
        ("y = x_1 - x_0 if", "y = x_0 - x_1 if"),
        ("interpolate(y, e, a)", "interpolate(e, y, a)"),
        ("interpolate(x_1, x_0, t)", "interpolate(x_1, e, t)"),
        ("self.guided_teacher(x_t", "self.teacher(x_t"),
        ("trunk(x_t, t, condition)", "trunk(x_t, 1 - t, condition)"),
        ("step >= self.stage", "step > self.stage"),
        ("< self.instantaneous, a, b)", "< self.instantaneous, b, a)"),
        ("a.clamp_max(LATEST)", "a"),
        ("residual.square()", "residual.detach().square() + 0 * residual"),
    ),
    *changes(
        "flow/parts",
        "distill/test_transition_matching",
        ("(end - y) / expand(1 - a, y)", "(y - end) / expand(1 - a, y)"),
        ("(end - y) / expand(1 - a, y)", "end - y"),
        ("y = y + (b - a) * self", "y = y.detach() + (b - a) * self"),
        ("y = y + (b - a) * self", "y = y + b * self"),
        ("int(self.inner_steps) + 1", "2"),
        ("told(self.inner_clock, a) +", "told(self.inner_clock, b) +"),
        ("self.inner_end_clock, b - a)", "self.inner_end_clock, b)"),
        ("for part in network.head_parts:", "for part in ():"),
        (
            "self.unroll(self.trunk(x_t, t, condition), e)",
            "self.unroll(self.trunk(x_t, t, condition), x_t)",
        ),
        ("self.fusion(y.flatten(0, 1))", "self.fusion(0 * y.flatten(0, 1))"),
    ),
    *changes(
        "flow/networks/small",
        "distill/test_meta_flow_map distill/test_transition_matching",
        ("(expand(time, point) * point)", "point"),
        ("skips[0] = skips[0] + added", "pass"),
        ("more = embedding if told is None", "more = 0 * embedding if told is None"),
    ),
    *changes(
        "flow/networks/occfm",
        "distill/test_meta_flow_map distill/test_transition_matching",
        ("(time.view(-1, 1, 1, 1, 1) * point)", "point"),
        ("F.silu(late_raw_e + embedding)", "late_e"),
        ("fine = fine + self", "fine = fine + 0 * self"),
    ),
    *changes(
        "training/hooks",
        "training/test_jobs",
        ("spread < teacher / 2", "spread < teacher"),
        ("self.stop and not grows", "self.stop"),
        ("spread > self.before, spread", "False, spread"),
        ("== runner.max_iters or runner.stopped", "== runner.max_iters"),
    ),
    *changes(
        "training/validation",
        "training/test_spread",
        ("(one != FREE) | (other != FREE)", "(one != FREE) & (other != FREE)"),
        ("(one != other).sum()", "(one == other).sum()"),
        ("self.of(self.teacher, self.sampler)", "self.of(self.teacher, self.score.sampler)"),
    ),
    *changes(
        "training/ahead",
        "training/test_ahead",
        ("first.request == (law, shape)", "first.request[1] == shape"),
        ("stream.bit_generator.state = state", "pass"),
        ("            self._ready.clear()\n", ""),
        ("usual.get(net, ())", "()"),
        ("usual[net] = draws.asked", 'usual["net"] = draws.asked'),
    ),
    *changes(
        "training/memory",
        "training/test_memory",
        ("settings.accumulate + 1", "settings.accumulate"),
        ("if share % n == 0", "if True"),
        ("settings.batch_size // processes", "settings.batch_size"),
        ("more and not whole_batch", "more"),
        ("if not settings.amp", "if settings.amp"),
    ),
    *changes(
        "evaluation/shared",
        "evaluation/test_evaluate",
        ("if name not in self._known", "if True"),
        ("zlib.crc32(clips.fingerprint.encode()) << 24", "0"),
        ("rows(index)[0]", "rows(index)[1]"),
        ('("rule", self.extrapolated, True)', '("rule", False, True)'),
        ("(self.future, self.grid, self.extrapolated)", "(self.future, self.grid)"),
    ),
    *changes(
        "flow/guidance",
        "evaluation/measures/test_probability",
        ("return 1 if scale in (None, 1.0) else 2", "return 1 if scale is None else 2"),
        ("return 1 if scale in (None, 1.0) else 2", "return 1"),
    ),
    *changes(
        "runtime/estimate",
        "runtime/test_estimate",
        ("conditions * self.aligned", "self.aligned"),
        ("samples * (self.nfe", "(self.nfe"),
        ("self.nfe * self.evaluate", "self.evaluate"),
        ("evaluations(forecaster.guidance)", "1"),
        ("seconds > interval", "seconds < interval"),
    ),
    *changes(
        "runtime/machine",
        "runtime/test_precision",
        ("= allowed\n", "= True\n"),
        ("products.allow_tf32, convolutions.allow_tf32 = before", "pass"),
    ),
    *changes(
        "arrays",
        "latents/test_cache faults/test_caches",
        ("_mark(mapped, done, stop)", "_mark(mapped, start, stop)"),
        ("stop == items or time.monotonic() >= due", "stop == items"),
        ("not start < stop <= items", "stop > items"),
    ),
]


def run_tests(tree: Path, tests: Sequence[str]) -> int:
    """Exit status of pytest on some test files of a tree, in a process of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = OTHER_TREE
    try:
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        with open("output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            import occdistill

            if Path(occdistill.__file__).is_relative_to(tree):
                status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    finally:
        os._exit(status)


def try_out(tree: Path, change: Change) -> str:
    """What became of a change, in a tree that is left as it was: "noticed", or what is wrong."""
    file = tree / change.file
    text = file.read_text()
    if text.count(change.old) != 1:
        return f"STALE: its text is there {text.count(change.old)} times"
    file.write_text(text.replace(change.old, change.new))
    status = run_tests(tree, change.tests)
    file.write_text(text)
    return {FAILED: "noticed", PASSED: "SURVIVED"}.get(status, f"NOT TRIED: exit status {status}")


def main(words: Sequence[str]) -> int:
    """Try the changes; 1 if one survives, is stale, or could not be tried."""
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a change may fall into the second of the one before
    start, wrong = time.monotonic(), 0
    chosen = [c for c in CHANGES if not words or any(word in c.file for word in words)]
    ignore = shutil.ignore_patterns("__pycache__", "*.pth")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        for part in ("occdistill", "tests", "docs"):
            shutil.copytree(ROOT / part, tree / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", tree)
        tests = sorted({test for change in chosen for test in change.tests})
        if not chosen or run_tests(tree, tests) != PASSED:
            print(f"no change in {words}" if not chosen else (tree / "output.txt").read_text())
            return 1
        for i, change in enumerate(chosen, 1):
            found = try_out(tree, change)
            wrong += found != "noticed"
            what = f"{change.file}: {change.old!r} -> {change.new!r}"
            print(f"{i}/{len(chosen)} {found}: {what}", flush=True)
    seconds = time.monotonic() - start
    print(f"{len(chosen) - wrong} of {len(chosen)} changes noticed, {seconds:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

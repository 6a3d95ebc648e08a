"""Clean prediction: MeanFlow's identity and a loss on what a toy decoder makes of the prediction."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occdistill.autoencoder.losses import lovasz_softmax
from occdistill.distill.base import only_grad
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.x_prediction import XPrediction
from occdistill.flow.path import TimeLaw, expand
from tests.flow_map import GaussianFlowMap
from tests.gaussian import SHIFT, GaussianField, make_batch
from tests.plane import BOTH, PLANE, batch_of, wide


class Signs(nn.Module):
    """One voxel of two classes for every latent number, `scale` times too large."""

    scale = 2.0

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def logits(self, z):
        return torch.stack([torch.zeros_like(z), self.gain * z], -1)

    @torch.no_grad()
    def decode(self, z):
        return self.logits(z).argmax(-1).to(torch.uint8)


def build(cls, case, mean=None, std=None, **kwargs):
    """With the exact flow map of another Gaussian, or of the guided teacher's."""
    own = [m - SHIFT for m in case["m"]]
    student = wide(GaussianFlowMap(0, 1), mean=mean or case["m"], std=std or case["s"])
    field = wide(GaussianField(0, 1), mean=own, std=case["s"])
    return cls(field, (1, len(own), 1, 1), student=student, **kwargs)


def off(case):
    return dict(mean=case["b"], std=case["a"])


def gradient(method, loss):
    student = method.nets["student"]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [student.mean, student.std])])


@BOTH
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_without_the_decoded_term_it_is_meanflow(case, power):
    """`V - v = u - [v + (r - t) Dt u]`: the same residual, draw by draw."""
    options = dict(times=dict(high=0.9), power=power, **off(case))
    one = build(XPrediction, case, decoder=Signs(), decoded_weight=0.0, **options)
    other = build(MeanFlow, case, **options)
    losses = [m.losses("student", batch_of(case, 3000), 0) for m in (one, other)]
    torch.testing.assert_close(losses[0].total, losses[1].total)
    assert losses[0].logs.keys() == {"gap"}
    torch.testing.assert_close(
        *(gradient(m, x.total) for m, x in zip((one, other), losses)), rtol=1e-4, atol=1e-5
    )


@BOTH
def test_the_identity_holds_at_the_guided_teachers_flow_map(case):
    method = build(XPrediction, case, decoder=Signs(), decoded_weight=0.0, power=0.0)
    loss = method.losses("student", batch_of(case, 3000), 0)
    assert loss.logs["gap"] < 1e-6
    torch.testing.assert_close(
        gradient(method, loss.total), torch.zeros(2 * len(case["m"])), rtol=0, atol=1e-3
    )


@BOTH
def test_the_decoded_term_is_that_of_clear_clean_predictions(case):
    """Recomputed from the student's own average velocity at the times that it is asked for."""
    seen = []
    method = build(XPrediction, case, decoder=Signs(), decoded_weight=0.7, **off(case))
    batch = batch_of(case, 300)
    student = method.nets["student"]
    forward = student.forward
    student.forward = lambda x, t, c, r=None: (
        seen.append((x, t, r)) if torch.is_grad_enabled() else None,
        forward(x, t, c, r),
    )[1]
    loss = method.losses("student", batch, 0)
    found = gradient(method, loss.total)
    method.decoded_weight = 0.0
    plain = method.losses("student", batch_of(case, 300), 0)
    found = found - gradient(method, plain.total)

    x_t, t, r = seen[0]
    x_1 = x_t + expand(1 - t, x_t) * forward(x_t, t, batch.condition, r)
    total, terms = 0, []
    for i in range(300):
        if t[i] > 0.5:
            logit = 3 * x_1[i].flatten() / 2  # the decoder's gain, the latents' scale
            label = batch.x_1[i].flatten() > 0
            entropy = F.softplus(torch.where(label, -logit, logit)).mean()
            p = torch.stack([1 - logit.sigmoid(), logit.sigmoid()], -1)
            term = entropy + lovasz_softmax(p, label.long())
            terms.append(term.detach())
            total = total + term / (term.detach() + 0.01)
    assert 100 < len(terms) < 250
    expected = gradient(method, 0.7 * total / 300)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss.logs["decoded"], torch.stack(terms).mean())
    torch.testing.assert_close(loss.total - plain.total, 0.7 * total.detach() / 300)
    assert loss.logs["gap"] == plain.logs["gap"]


def test_no_interval_starts_where_the_division_would_blow_up():
    times = []
    late = dict(law="uniform_within", low=0.97, high=0.99)
    method = build(XPrediction, PLANE, decoder=Signs(), times=late, instantaneous=0.0)
    method.nets["student"].register_forward_pre_hook(
        lambda _net, args, kwargs: times.append((args[1], kwargs["r"])), with_kwargs=True
    )
    method.losses("student", batch_of(PLANE, 10), 0)
    assert all((t == 0.95).all() and (r > 0.96).all() for t, r in times)


def test_no_clip_clear_enough_is_no_error():
    method = build(XPrediction, PLANE, decoder=Signs(), times=dict(low=0.1, high=0.4))
    assert method.losses("student", batch_of(PLANE, 8), 0).logs.keys() == {"gap"}


def test_the_decoder_stays_as_it_is():
    method = build(XPrediction, PLANE, decoder=Signs(), **off(PLANE))
    assert method.plan(0) == ("student",)
    with only_grad(method.nets, "student"):
        method.losses("student", batch_of(PLANE, 64), 0).total.backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"nets.student.mean", "nets.student.std"}


@pytest.mark.parametrize(
    "attribute, value",
    [
        ("times", TimeLaw(mean=0.4)),
        ("instantaneous", 0.5),
        ("power", 1.0),
        ("decoded_weight", 1.0),
        ("clear_from", 0.5),
    ],
)
def test_default(attribute, value):
    assert getattr(build(XPrediction, PLANE, decoder=Signs()), attribute) == value


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(decoder=None), "decoder must"),
        (dict(decoded_weight=-1.0), "decoded_weight must"),
        (dict(clear_from=0.95), "clear_from must"),
        (dict(clear_from=-0.1), "clear_from must"),
        (dict(instantaneous=2.0), "instantaneous must"),
        (dict(power=-1.0), "power must"),
    ],
)
def test_bad_arguments_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(XPrediction, PLANE, **{"decoder": Signs(), **options})


def test_it_needs_data():
    with pytest.raises(ValueError, match="x_1"):
        build(XPrediction, PLANE, decoder=Signs()).losses("student", make_batch(4), 0)
    with pytest.raises(KeyError, match="auxiliary"):
        build(XPrediction, PLANE, decoder=Signs()).losses("auxiliary", make_batch(4), 0)

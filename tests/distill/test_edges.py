"""Arguments at the edge of their range: what computes there, and what is refused beyond."""

import math

import pytest
import torch

from occdistill.distill.ayf import AYF
from occdistill.distill.consistency import Consistency
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.flow_map import FlowMap
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.distill.regression import Regression
from occdistill.distill.senseflow import SenseFlow
from occdistill.distill.sid import SiD
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.flow.path import TimeLaw
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import build, gradients


def make(cls, **options):
    if issubclass(cls, FlowMap):
        return build_map(cls, 1.4, 0.5, **options)
    return build(cls, 1.1, 0.2, **options)


@pytest.mark.parametrize(
    "cls, options, sentence",
    [
        (MFD, dict(ode_step=0), r"ode_step must lie in \(0, 1\], not 0"),
        (MFD, dict(ode_step=-1), r"ode_step must lie in \(0, 1\], not -1"),
        (MFD, dict(ode_step=math.nan), "ode_step must"),
        (NoAuxiliary, dict(ode_step=0), "ode_step must"),
        (NoAuxiliary, dict(ode_step=2.0), "ode_step must"),
        (VelocityMatching, dict(ratio=0), "ratio must be a whole number, 1 or more, not 0"),
        (VelocityMatching, dict(ratio=2.5), "ratio must"),
        (VelocityMatching, dict(guidance=math.inf), "guidance must"),
        (VelocityMatching, dict(ratio=3, final_ratio=4), r"final_ratio must lie in \[1, ratio\]"),
        (VelocityMatching, dict(final_ratio=0), "final_ratio must"),
        (VelocityMatching, dict(fall=0), "fall must be a whole number"),
        (VelocityMatching, dict(reuse=0), "reuse must be a whole number"),
        (VelocityMatching, dict(auxiliary_base="data"), "auxiliary_base must be 'teacher' or"),
        (
            VelocityMatching,
            dict(auxiliary_base="student"),
            "must be 'teacher' where auxiliary_rank",
        ),
        (VelocityMatching, dict(auxiliary_rank=4), "auxiliary_rank must be 0 where the method has"),
        (MFD, dict(solver="rk4"), "solver must be one of euler, midpoint, heun, not 'rk4'"),
        (DiffInstruct, dict(weight="score", times=dict(high=1.0)), "times.high < 1"),
        (DiffInstruct, dict(weight="score", times=TimeLaw(high=1 - 1e-9)), "times.high < 1"),
        (SiD, dict(alpha=math.nan), "alpha must"),
        (Consistency, dict(gap=0.0), "gap must lie in"),
        (Consistency, dict(gap=-0.02), "gap must lie in"),
        (Consistency, dict(gap=1e-9), "gap must lie in"),
        (Consistency, dict(huber=0.0), "huber must"),
        (Consistency, dict(target_ema=1.0), "target_ema must"),
        (AYF, dict(c=0.0), "c must"),
        (AYF, dict(gap_std=-1.0), "gap_std must"),
        (AYF, dict(tangent_max=1.5), "tangent_max must"),
        (AYF, dict(tangent_warmup=-1), "tangent_warmup must"),
        (MeanFlow, dict(instantaneous=1.5), "instantaneous must"),
        (MeanFlow, dict(tangent_warmup=-1), "tangent_warmup must"),
        (MeanFlow, dict(power=-1.0), "power must"),
        (Regression, dict(steps=0), "steps must"),
        (Regression, dict(shift=0.0), "shift must"),
        (DMD2, dict(generator_weight=-1.0), "generator_weight must"),
        (DMD2, dict(discriminator_weight=-1.0), "discriminator_weight must"),
        (SenseFlow, dict(ida=1.1), "ida must"),
        (SenseFlow, dict(isg_weight=-0.5), "isg_weight must"),
        (SenseFlow, dict(isg_huber=0.0), "isg_huber must"),
        (SenseFlow, dict(isg_margin=0.6), "isg_margin must"),
    ],
)
def test_an_argument_out_of_range_is_refused(cls, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(cls, **options)


def test_the_data_end_of_a_trajectory_has_nothing_to_learn():
    """At t = 1 both ends of the gap are the sample itself; the other samples aren't touched."""
    for huber in (None, 0.00054):
        at_the_end = dict(times=dict(low=1.0, high=1.0), huber=huber)
        method = build_map(Consistency, 1.4, 0.5, **at_the_end)
        assert method.losses("student", data_batch(16), 0).total == 0
        assert map_gradients(method, 16) == (0, 0)

    class OneAtTheEnd(TimeLaw):
        def times(self, draws):
            return torch.tensor([0.3, 1.0])

    loss = build_map(Consistency, 1.4, 0.5, times=OneAtTheEnd()).losses("student", data_batch(2), 0)
    assert torch.isfinite(loss.total) and loss.total > 0


@pytest.mark.parametrize("cls", [MFD, VelocityMatching, DiffInstruct, SiD, NoAuxiliary])
def test_times_that_reach_both_ends_have_finite_gradients(cls):
    for end in (0.0, 1.0):
        found = gradients(make(cls, times=dict(low=end, high=end)), 64)
        assert all(math.isfinite(x) for x in found)


def test_one_changed_entry_of_a_time_law_leaves_the_methods_others():
    cases = {
        DiffInstruct: (dict(mean=0.4), TimeLaw(mean=0.4, low=0.02, high=0.98)),
        DMD2: (dict(high=0.9), TimeLaw("uniform", low=0.02, high=0.9)),
        MeanFlow: (dict(std=2.0), TimeLaw(mean=0.4, std=2.0)),
        SiD: (dict(high=0.8), TimeLaw(high=0.8)),
    }
    for cls, (change, expected) in cases.items():
        options = dict(taps=[Tap()]) if cls is DMD2 else {}
        assert make(cls, times=change, **options).times == expected
        whole = TimeLaw("uniform", low=0.3, high=0.4)  # a law of one's own is taken as it is
        assert make(cls, times=whole, **options).times is whole
    discriminator = make(DMD2, gan_times=dict(low=0.1), taps=[Tap()]).gan_times
    assert discriminator == TimeLaw("uniform", low=0.1)
    auxiliary = make(DiffInstruct, auxiliary_times=dict(mean=1.0)).auxiliary_times
    assert auxiliary == TimeLaw(mean=1.0)


class Tap:
    """A tap that is never read."""

    module, channels = "", 1

"""What a method does unless told otherwise, against the numbers of its paper or of its code.

"Code" is the authors'; FastGen is NVIDIA's, which has flow versions of several methods.
"""

import pytest

from occdistill.distill.ayf import AYF
from occdistill.distill.consistency import Consistency
from occdistill.distill.diff_instruct import WEIGHTS, DiffInstruct
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
from tests.flow_map import build_map
from tests.gaussian import build

# OccFM trains at sigmoid(N(0, 1)), FastGen leaves out a thousandth at either end. All entries are
# given, so that TimeLaw's own defaults are pinned too.
OCCFM = TimeLaw(law="logit_normal", mean=0.0, std=1.0, low=0.001, high=0.999)
# DMD's min_step and max_step, 2 % from either end
DMD = dict(mean=0.0, std=1.0, low=0.02, high=0.98)

DEFAULTS = [
    # class, attribute, value, where it is from
    (MFD, "guided_teacher.scale", 2.0, "OccFM's sampler"),
    (MFD, "ode_step", 0.02, "MFD, Table 2: the best of five"),
    (MFD, "solver", "euler", "MFD, paper"),
    (MFD, "ratio", 10, "MFD, paper; its code: 9 or 2.5"),
    (MFD, "final_ratio", 10, "MFD, paper: it stays"),
    (MFD, "reuse", 1, "MFD, paper: a fresh sample for every auxiliary update"),
    (MFD, "times", OCCFM, "OccFM's training law, as MFD"),
    (MFD, "auxiliary_times", OCCFM, "as the student's"),
    (NoAuxiliary, "ode_step", 0.02, "as MFD"),
    (NoAuxiliary, "times", OCCFM, "as MFD"),
    (VelocityMatching, "ratio", 10, "as MFD, r = t"),
    (VelocityMatching, "times", OCCFM, "as MFD, r = t"),
    (DiffInstruct, "weight", WEIGHTS["x1"], "Diff-Instruct's code: clean predictions"),
    (DiffInstruct, "times", TimeLaw("logit_normal", **DMD), "OccFM's law, DMD's clip"),
    (DiffInstruct, "auxiliary_times", OCCFM, "the auxiliary learns at all times"),
    (DiffInstruct, "ratio", 10, "as MFD's comparison"),
    (SiD, "alpha", 1.0, "SiD, paper: 1 to 1.2; its code: 1.2"),
    (SiD, "weight", "denoiser", "SiD's code"),
    (SiD, "ratio", 1, "SiD, code"),
    (SiD, "times", OCCFM, "ours; the source's is an option"),
    (Consistency, "huber", 0.00054, "iCT (2310.14189): 0.00054 sqrt(d), here per element"),
    (Consistency, "gap", 0.02, "ours: 50 points from noise to data"),
    (Consistency, "target_ema", 0.0, "iCT: no moving average"),
    (Consistency, "times", OCCFM, "OccFM's training law"),
    (AYF, "tangent_max", 0.99, "AYF, FastGen: k at most 0.99"),
    (AYF, "tangent_warmup", 2000, "AYF, FastGen"),
    (AYF, "c", 0.1, "sCM (2410.11081), kept by AYF"),
    (AYF, "gap_mean", -0.8, "AYF, FastGen"),
    (AYF, "gap_std", 1.6, "AYF, FastGen"),
    (MeanFlow, "times", TimeLaw(mean=0.4), "MeanFlow: -0.4 where noise is at t = 1"),
    (MeanFlow, "instantaneous", 0.5, "MeanFlow: r = t on 50 % but for ImageNet (75 %)"),
    (MeanFlow, "power", 1.0, "MeanFlow, code"),
    (MeanFlow, "tangent_warmup", 0, "MeanFlow: none"),
    (DMD2, "generator_weight", 3e-3, "DMD2's code, ImageNet"),
    (DMD2, "discriminator_weight", 1e-2, "DMD2's code, ImageNet"),
    (DMD2, "ratio", 5, "DMD2, ImageNet"),
    (DMD2, "gan", "logistic", "DMD2, code"),
    (DMD2, "times", TimeLaw("uniform", **DMD), "DMD2's code"),
    (DMD2, "auxiliary_times", OCCFM, "the auxiliary learns at all times"),
    (DMD2, "gan_times", TimeLaw("uniform"), "DMD2: at all noise levels"),
    (SenseFlow, "ida", 0.98, "SenseFlow's code"),
    (SenseFlow, "isg_weight", 0.5, "SenseFlow's code"),
    (SenseFlow, "isg_huber", 1e-3, "SenseFlow's code"),
    (SenseFlow, "isg_margin", 0.05, "SenseFlow's code"),
    (SenseFlow, "generator_weight", 0.1, "SenseFlow's code"),
    (SenseFlow, "ratio", 10, "SenseFlow's code"),
    (SenseFlow, "gan", "hinge", "SenseFlow's code"),
    (Regression, "steps", 10, "OccFM's sampler"),
    (Regression, "shift", 3.0, "OccFM's sampler"),
]


class Anything:
    """A tap and a head that are never read."""

    module, channels = "", 1


@pytest.mark.parametrize(
    "cls, attribute, value", [row[:3] for row in DEFAULTS], ids=lambda x: getattr(x, "__name__", x)
)
def test_default(cls, attribute, value):
    options = {}
    if issubclass(cls, DMD2):
        options = dict(taps=[Anything()])
    if issubclass(cls, FlowMap):
        found = build_map(cls, 1.0, 0.7)
    else:
        found = build(cls, 1.0, 0.5, **options)
    for part in attribute.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_senseflows_heads_read_the_frozen_teacher_and_dmd2s_the_auxiliary():
    for cls, frozen in ((DMD2, False), (SenseFlow, True)):
        method = build(cls, 1.0, 0.5, taps=[Anything()])
        source = method.nets["auxiliary"]._source[0]
        assert source is (method.teacher if frozen else None)

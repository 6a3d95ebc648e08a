"""Every method on the demo's teacher, once and briefly: that each of them trains, not which is best.

    python tools/table1.py configs/table1/all_methods.py --budget updates --seeds 0

The rows of `demo.py` as they are there. For the others the learning rate is that of their nearest
relative among those, not searched; five auxiliary updates per student update, and curricula that
count updates shortened to the 15 there are. `APT` starts from the teacher here; the source starts it
from a consistency student (`student_checkpoint` in a config).
"""

from mmengine.config import read_base

from occdistill.distill.add import ADD
from occdistill.distill.alphaflow import AlphaFlow
from occdistill.distill.apt import APT
from occdistill.distill.composition import Composition
from occdistill.distill.decoupled import DecoupledMeanFlow
from occdistill.distill.diff_instruct import DiffInstructScore, DiffInstructVelocity
from occdistill.distill.diff_ratio import DiffRatio
from occdistill.distill.f_distill import FDistill
from occdistill.distill.flow_generator_matching import FlowGeneratorMatching
from occdistill.distill.freeflow import FreeFlow
from occdistill.distill.improved_meanflow import ImprovedMeanFlow
from occdistill.distill.ladd import LADD
from occdistill.distill.meta_flow_map import MetaFlowMap
from occdistill.distill.moment_matching import MomentMatching
from occdistill.distill.progressive_distillation import ProgressiveDistillation
from occdistill.distill.reflow import Reflow
from occdistill.distill.second_order import SecondOrderMeanFlow
from occdistill.distill.terminal_velocity import TerminalVelocity
from occdistill.distill.transition_matching import TransitionMatching
from occdistill.distill.weighted import WeightedMeanFlow
from occdistill.distill.x_prediction import XPrediction

with read_base():
    from .demo import *

work_dir = "work_dirs/table1-all-methods"
updates = 15
samples = 4
search = {}
rows.update(
    diff_instruct_score=dict(
        title="Diff-Instruct, score weight",
        method=dict(type=DiffInstructScore, ratio=5),
        train=dict(lr=3e-4),
    ),
    diff_instruct_velocity=dict(
        title="Diff-Instruct, velocity weight",
        method=dict(type=DiffInstructVelocity, ratio=5),
        train=dict(lr=3e-4),
    ),
    f_distill=dict(title="f-distill", method=dict(type=FDistill, ratio=5), train=dict(lr=1e-3)),
    flow_generator_matching=dict(
        title="flow generator matching",
        method=dict(type=FlowGeneratorMatching),
        train=dict(lr=1e-4),
    ),
    freeflow=dict(title="FreeFlow", method=dict(type=FreeFlow), train=dict(lr=3e-4)),
    diff_ratio=dict(title="DiffRatio", method=dict(type=DiffRatio), train=dict(lr=1e-4)),
    add=dict(title="ADD", method=dict(type=ADD), train=dict(lr=3e-4)),
    ladd=dict(title="LADD", method=dict(type=LADD), train=dict(lr=3e-4)),
    apt=dict(title="APT", method=dict(type=APT), train=dict(lr=1e-4)),
    progressive=dict(
        title="progressive distillation",
        method=dict(type=ProgressiveDistillation, stage=5),
        train=dict(lr=1e-3),
    ),
    reflow=dict(title="reflow", method=dict(type=Reflow), train=dict(lr=3e-4)),
    composition=dict(title="composition", method=dict(type=Composition), train=dict(lr=3e-4)),
    moment_matching=dict(
        title="moment matching", method=dict(type=MomentMatching), train=dict(lr=3e-4)
    ),
    improved_meanflow=dict(
        title="improved MeanFlow", method=dict(type=ImprovedMeanFlow), train=dict(lr=3e-3)
    ),
    alphaflow=dict(
        title="AlphaFlow", method=dict(type=AlphaFlow, curriculum=(0, 15)), train=dict(lr=3e-3)
    ),
    decoupled_meanflow=dict(
        title="decoupled MeanFlow", method=dict(type=DecoupledMeanFlow), train=dict(lr=1e-3)
    ),
    weighted_meanflow=dict(
        title="weighted MeanFlow",
        method=dict(type=WeightedMeanFlow, steps=15, tangent_warmup=10),
        train=dict(lr=3e-3),
    ),
    second_order=dict(
        title="second-order MeanFlow",
        method=dict(type=SecondOrderMeanFlow, beta_warmup=10),
        train=dict(lr=3e-3),
    ),
    terminal_velocity=dict(
        title="terminal velocity matching", method=dict(type=TerminalVelocity), train=dict(lr=1e-3)
    ),
    x_prediction=dict(
        title="x-prediction, decoded loss",
        method=dict(type=XPrediction, tangent_warmup=10),
        train=dict(lr=3e-3),
    ),
    meta_flow_map=dict(title="meta flow map", method=dict(type=MetaFlowMap), train=dict(lr=3e-3)),
    transition_matching=dict(
        title="transition matching",
        method=dict(type=TransitionMatching, ratio=5, stage=8),
        train=dict(lr=3e-4),
    ),
)

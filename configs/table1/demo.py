"""Table 1 on the embedded world: a night on two cores.

    python tools/make_world.py --out data/world-tune --scenes 12 --val-scenes 4 --seed 2000 --no-lidar
    python tools/table1.py configs/table1/demo.py --jobs 2 --budget updates

All rows share teacher, data, student network, batch size, warm-up and clipping. The learning rate
is the only thing searched, over the same four values and with as many updates for every row, on a
world of its own (see `search`); everything else is the method's published setting but for what time
forced on all rows alike: five auxiliary updates per student update instead of ten, Euler steps of
0.05 instead of 0.02, warm-ups that count updates shortened. The rates in `rows` are for tables made
of them without a search; they are what a search with 10 updates found.
"""

from occdistill.distill.ayf import AYF
from occdistill.distill.consistency import Consistency
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.distill.regression import Regression
from occdistill.distill.senseflow import SenseFlow
from occdistill.distill.sid import SiD
from occdistill.distill.velocity_matching import VelocityMatching

base = "configs/demo.py"
work_dir = "work_dirs/table1"
reference = "mfd"
updates = 60
seeds = (0, 1, 2)
clips = 60
samples = 16
train = dict(batch_size=4, warmup=10, clip=1.0, val_clips=12)
rows = dict(
    mfd=dict(
        title="MFD",
        method=dict(type=MFD, ratio=5, ode_step=0.05),
        train=dict(lr=1e-4),
        seeds=(0, 1, 2, 3, 4),
    ),
    velocity=dict(
        title="velocity matching",
        method=dict(type=VelocityMatching, ratio=5),
        train=dict(lr=1e-4),
        seeds=(0, 1, 2, 3, 4),
    ),
    diff_instruct=dict(
        title="Diff-Instruct",
        method=dict(type=DiffInstruct, ratio=5),
        train=dict(lr=3e-4),
        seeds=(0, 1, 2, 3, 4),
    ),
    dmd2=dict(
        title="DMD2", method=dict(type=DMD2, ratio=5), train=dict(lr=1e-3), seeds=(0, 1, 2, 3, 4)
    ),
    senseflow=dict(title="SenseFlow", method=dict(type=SenseFlow, ratio=5), train=dict(lr=1e-3)),
    sid=dict(title="SiD", method=dict(type=SiD), train=dict(lr=1e-4)),
    consistency=dict(
        title="consistency distillation", method=dict(type=Consistency), train=dict(lr=3e-3)
    ),
    ayf_emd=dict(
        title="AYF, EMD",
        method=dict(type=AYF, objective="emd", tangent_warmup=10),
        train=dict(lr=3e-4),
    ),
    ayf_lmd=dict(title="AYF, LMD", method=dict(type=AYF, objective="lmd"), train=dict(lr=1e-3)),
    meanflow=dict(
        title="MeanFlow", method=dict(type=MeanFlow, tangent_warmup=10), train=dict(lr=3e-3)
    ),
    regression=dict(
        title="direct regression",
        method=dict(type=Regression),
        train=dict(lr=3e-4),
        seeds=(0, 1, 2, 3, 4),
    ),
    no_auxiliary=dict(
        title="MFD without auxiliary",
        method=dict(type=NoAuxiliary, ode_step=0.05),
        train=dict(lr=1e-3),
    ),
)
search = dict(
    lr=(1e-4, 3e-4, 1e-3, 3e-3),
    seed=100,
    samples=8,
    clips=32,
    options={"data.dataroot": "data/world-tune"},
)

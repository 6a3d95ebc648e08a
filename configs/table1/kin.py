"""MFD beside its nearest kin on the embedded world: same teacher, student network and updates.

python tools/table1.py configs/table1/kin.py --budget updates
"""

from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.distill.velocity_matching import VelocityMatching

base = "configs/demo.py"
work_dir = "work_dirs/kin"
reference = "mfd"
updates = 30
seeds = (0, 1, 2)
clips = 0
train = dict(batch_size=8, lr=1e-4, warmup=10, clip=1.0, val_clips=16)
rows = dict(
    mfd=dict(title="MFD", method=dict(type=MFD, ratio=10, ode_step=0.02)),
    velocity=dict(title="velocity matching", method=dict(type=VelocityMatching, ratio=10)),
    diff_instruct=dict(title="Diff-Instruct", method=dict(type=DiffInstruct, ratio=10)),
    no_auxiliary=dict(title="MFD without auxiliary", method=dict(type=NoAuxiliary)),
)

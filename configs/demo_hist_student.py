"""The second half of the student on the past alone: MFD, from what `demo_hist_regression.py` left.

The auxiliary learns three times as much before the first updates, so that it knows the student when
that begins to move; midpoint steps and samples used twice make an update cheaper.
"""

from mmengine.config import read_base

from occdistill.distill.mfd import MFD

with read_base():
    from .demo_hist import *

student_checkpoint = "work_dirs/demo_hist/regression/student.pth"
method = dict(
    type=MFD, ratio=30, final_ratio=10, fall=10, reuse=2, ode_step=0.15, solver="midpoint"
)
train_distill = dict(
    iterations=30, batch_size=8, lr=dict(student=3e-5, auxiliary=3e-4), warmup=10, clip=1.0, ema=0.8,
    seed=0, val_interval=5, val_clips=16, checkpoint_interval=5, compact=True,
)  # fmt: skip
work_dir = "work_dirs/demo_hist_student"

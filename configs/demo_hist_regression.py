"""The first half of the student on the past alone: the teacher's samples, from the same noise.

    python tools/train_distill.py configs/demo_hist_regression.py
    python tools/train_mfd.py configs/demo_hist_student.py
    python tools/test.py configs/demo_hist.py work_dirs/demo_hist_student/mfd/student.pth --samples 16

MFD from the teacher's own single step loses most of the diversity before it wins it back, slowly
(docs/results.md): a student that has it from the beginning hardly loses any.
"""

from mmengine.config import read_base

from occdistill.distill.regression import Regression

with read_base():
    from .demo_hist import *

method = dict(type=Regression, steps=10)
train_distill = dict(
    iterations=150, batch_size=8, lr=1e-3, warmup=10, final_lr=1e-4, clip=1.0, ema=0.95, seed=0,
    mirror=True, val_interval=50, val_clips=16, checkpoint_interval=50, compact=True,
)  # fmt: skip
work_dir = "work_dirs/demo_hist"

"""MFD without its auxiliary, long enough to collapse, beside MFD itself.

python tools/train_distill.py configs/demo_no_auxiliary.py
python tools/train_mfd.py configs/demo.py --work-dir work_dirs/mfd90 --cfg-options \\
    train_distill.iterations=90 train_distill.batch_size=4 train_distill.lr=3e-4 \\
    train_distill.checkpoint_interval=20 train_distill.keep=5 method.ratio=5 method.ode_step=0.05
python tools/test.py configs/demo.py CHECKPOINT --rows student --measure samples --limit-clips 16
"""

from mmengine.config import read_base

from occdistill.distill.no_auxiliary import NoAuxiliary

with read_base():
    from .demo import *

method = dict(type=NoAuxiliary, ode_step=0.05)
train_distill.update(
    iterations=160, batch_size=4, lr=3e-4, val_interval=30, checkpoint_interval=20, keep=8
)
work_dir = "work_dirs/demo_no_auxiliary"

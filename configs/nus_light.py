"""The light network of `nus.py`: the student's one step, learned by a seventh of the operations.

    python tools/train_distill.py configs/nus_light.py
    python tools/train_mfd.py configs/nus.py --work-dir work_dirs/nus_light/mfd \\
        --cfg-options student_checkpoint=work_dirs/nus_light/regression/student.pth
    cp work_dirs/nus_light/mfd/student.pth data/occfm/occfm_fut/light_network.pth

Not run on nuScenes by this project: its speed is measured, its quality isn't.
"""

from mmengine.config import read_base

from occdistill.distill.regression import Regression

with read_base():
    from .nus import *

teacher_checkpoint = "work_dirs/nus/mfd/student.pth"  # who is learned from
student_network = "light"
method = dict(type=Regression, steps=1)
guidance = 1.0
sampler.update(steps=1)
# 20 epochs of 20,430 windows
train_distill = dict(
    iterations=51000, batch_size=8, lr=5e-4, warmup=500, final_lr=1e-5, clip=1.0, ema=0.999, amp=True,
    seed=0, mirror=True, checkpoint_interval=500, val_interval=5000, val_clips=128,
)  # fmt: skip
advice.update(teacher="make it with `python tools/train_mfd.py configs/nus.py`")
work_dir = "work_dirs/nus_light"

"""The demo's light network: the shipped student's one step, learned by a quarter of the operations.

    python tools/train_distill.py configs/demo_light.py
    python tools/train_mfd.py configs/demo.py --work-dir work_dirs/demo_light/mfd \\
        --cfg-options student_checkpoint=work_dirs/demo_light/regression/student.pth
    cp work_dirs/demo_light/mfd/student.pth data/demo-weights/light_network.pth
    python tools/test.py configs/demo.py data/demo-weights/student.pth --network full light \\
        --decoder full light --encoder full light --measure samples

It starts as every second channel of the student, is regressed on the student's samples, and then
finished by MFD against the teacher itself.
"""

from mmengine.config import read_base

from occdistill.distill.regression import Regression

with read_base():
    from .demo_train import *

teacher_checkpoint = "data/demo-weights/student.pth"  # who is learned from
student_network = "light"
method = dict(type=Regression, steps=1)
guidance = 1.0
sampler.update(steps=1)
train_distill = dict(
    iterations=3000, batch_size=16, lr=1e-3, warmup=100, final_lr=1e-5, clip=1.0, ema=0.998, seed=0,
    mirror=True, val_interval=1000, val_clips=60, checkpoint_interval=250, compact=True,
)  # fmt: skip
work_dir = "work_dirs/demo_light"

"""MFD as its paper reports it: OccFM's published model with the future trajectory, distilled.

    python tools/import_occfm.py weights FILE.ckpt --variant occfm_fut
    python tools/train_mfd.py configs/nus.py
    python tools/train_light.py configs/nus.py       # for --decoder light, --encoder light
    python tools/train_distill.py configs/nus_light.py    # for --network light, see there

Not run on nuScenes by this project. The paper trains for 30 epochs of 20,430 windows at batch 8;
taken as updates of either net that is 76,600, and 6,965 of the student at ten to one. It doesn't
give the learning rate: this one is the default of its released code. A third of the evaluations
per student update, once the ratio has fallen, see "The price of MFD" in docs/methods.md:

    python tools/train_mfd.py configs/nus.py --cfg-options method.solver=midpoint \\
        method.ode_step=0.15 method.final_ratio=4 method.reuse=5
"""

from mmengine.config import read_base

from occdistill.distill.mfd import MFD

with read_base():
    from ._base_.nus import *

vae_checkpoint = "data/occfm/occfm_fut/vae.pth"
teacher_checkpoint = "data/occfm/occfm_fut/teacher.pth"
light_checkpoint = "data/occfm/occfm_fut/light.pth"
light_network_checkpoint = "data/occfm/occfm_fut/light_network.pth"
method = dict(type=MFD, ratio=10, ode_step=0.02)
train_distill = dict(
    iterations=6965, batch_size=8, lr=1e-5, warmup=100, clip=1.0, amp=True, seed=0,
    checkpoint_interval=100, val_interval=500, val_clips=128,
)  # fmt: skip
# 5 epochs of 28,130 keyframes
train_light = dict(
    iterations=17600, batch_size=8, lr=1e-3, warmup=200, final_lr=1e-5, clip=1.0, ema=0.999, amp=True,
    seed=0, noise=0.3, lovasz_weight=0.5, lovasz_voxels=65536, class_balance=0.25, mirror=True,
    checkpoint_interval=500, val_interval=2000, val_clips=256, compact=True,
)  # fmt: skip
advice.update(
    light="make it with `python tools/train_light.py configs/nus.py`",
    light_network="make it with the commands in configs/nus_light.py",
)
work_dir = "work_dirs/nus"

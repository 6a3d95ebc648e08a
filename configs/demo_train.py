"""The demo's VAE, light parts and teacher, trained on a larger embedded world of other towns.

`make weights` runs these trainings and the one in `demo_lidar.py` in work_dirs/weights, about 2 h on
2 cores, and copies what they leave to data/demo-weights. Stopped, it goes on where it was; remove
work_dirs/weights to begin anew.
"""

from mmengine.config import read_base

with read_base():
    from .demo import *

data.update(dataroot="data/world-train", stride=2)
train_vae = dict(
    iterations=4000, batch_size=8, lr=2e-3, warmup=200, final_lr=1e-5, clip=1.0, ema=0.998, seed=0,
    kl_weight=5e-3, lovasz_weight=0.5, lovasz_voxels=12288, class_balance=0.25, val_interval=2000,
    val_clips=60, checkpoint_interval=500,
)  # fmt: skip
train_light = dict(
    iterations=6000, batch_size=4, lr=3e-3, warmup=100, final_lr=1e-5, clip=1.0, ema=0.998, seed=0,
    noise=0.3, lovasz_weight=0.5, lovasz_voxels=8192, class_balance=0.25, feature_weight=0.3, mirror=True,
    val_interval=1500, val_clips=60, checkpoint_interval=500, compact=True,
)  # fmt: skip
train_teacher = dict(
    iterations=1500, batch_size=16, lr=1e-3, warmup=200, final_lr=1e-5, clip=1.0, ema=0.998, seed=0,
    condition_dropout=0.2, moving_weight=5.0, mirror=True, val_interval=500, val_clips=32, checkpoint_interval=250, compact=True,
    hand_over="best",
)  # fmt: skip
advice = dict(
    data="make it with `python tools/make_world.py --out data/world-train --scenes 200 "
    "--val-scenes 6 --seed 1000 --no-lidar`",
    vae="make it with `python tools/train_vae.py configs/demo_train.py`",
    light="make it with `python tools/train_light.py configs/demo_train.py`",
    light_network="make it with the commands in configs/demo_light.py",
    teacher="make it with `python tools/train_teacher.py configs/demo_train.py`",
)
work_dir = "work_dirs/demo_train"

"""OccFM's transition network from scratch, on latents of `nus_vae.py`: 200 epochs of 20,430 windows.

    torchrun --nproc_per_node=8 tools/train_teacher.py configs/nus_teacher.py --launcher pytorch

OccFM trains with 4 windows and a learning rate of 8e-5 per GPU and doesn't say on how many: 8 are
assumed.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.nus import *

vae_checkpoint = "data/nus-weights/vae.pth"
teacher_checkpoint = "data/nus-weights/teacher.pth"
train_teacher = dict(
    iterations=127700, batch_size=32, lr=6.4e-4, warmup=1000, final_lr=1.28e-4, weight_decay=0.01,
    clip=5.0, ema=0.9999, amp=True, seed=0, condition_dropout=0.2,
    checkpoint_interval=500, val_interval=5000, val_clips=128,
)  # fmt: skip
advice.update(
    vae="train it with `python tools/train_vae.py configs/nus_vae.py`",
    teacher="train it with `python tools/train_teacher.py configs/nus_teacher.py`",
)
work_dir = "work_dirs/nus_teacher"

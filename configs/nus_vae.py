"""OccFM's autoencoder from scratch: 100 epochs of 28,130 keyframes.

    torchrun --nproc_per_node=8 tools/train_vae.py configs/nus_vae.py --launcher pytorch

OccFM trains with 6 keyframes and a learning rate of 1.2e-4 per GPU and doesn't say on how many: 8
are assumed. Its loss, 10 × cross-entropy + Lovász + KL, is divided by 10, and so is its clip of 5.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.nus import *

vae.update(recompute=True)
vae_checkpoint = "data/nus-weights/vae.pth"
train_vae = dict(
    iterations=58600, batch_size=48, lr=9.6e-4, warmup=1000, final_lr=1.92e-4, weight_decay=0.01,
    clip=0.5, ema=0.0, amp=True, seed=0, lovasz_weight=0.1, kl_weight=0.1,
    checkpoint_interval=500, val_interval=5000, val_clips=256,
)  # fmt: skip
work_dir = "work_dirs/nus_vae"

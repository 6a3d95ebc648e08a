"""The demo on what a car really has: merged LiDAR sweeps instead of labels, encoded sparsely.

python tools/test.py configs/demo_lidar.py work_dirs/demo/mfd/student.pth --encoder full lidar
python tools/realtime.py configs/demo_lidar.py work_dirs/demo/mfd/student.pth --source lidar --encoder lidar

The encoder is shipped; `make weights` trains it anew, with the rest of data/demo-weights.
"""

from mmengine.config import read_base

from occdistill.autoencoder.sparse import SparseEncoder

with read_base():
    from .demo import *

data.update(past_from="lidar")
lidar_encoder = dict(type=SparseEncoder, width=(16, 32), head=(48, 64), blocks=3)
lidar_encoder_checkpoint = "data/demo-weights/lidar_encoder.pth"
train_lidar_encoder = dict(
    iterations=3000, batch_size=8, lr=3e-3, warmup=50, final_lr=3e-5, clip=1.0, ema=0.99, seed=0,
    plain=0.25, val_interval=1000, val_clips=60, checkpoint_interval=500, compact=True,
)  # fmt: skip
advice["lidar_encoder"] = "make it with `python tools/train_lidar_encoder.py configs/demo_lidar.py`"
work_dir = "work_dirs/demo_lidar"

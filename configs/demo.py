"""The embedded world, start to end on a CPU: `make demo` runs this."""

from mmengine.config import read_base

from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.distill.mfd import MFD

with read_base():
    from ._base_.small_world import *

data.update(dataroot="data/world", version="v1.0-synthetic")
vae_checkpoint = "data/demo-weights/vae.pth"
teacher_checkpoint = "data/demo-weights/teacher.pth"
plan_checkpoint = "data/demo-weights/plan_student.pth"  # of the ego's plans, where none is given
# what --decoder light and --encoder light use: a fifth of the operations
light_decoder = dict(type=LightDecoder, width=(48,), blocks=(2,))
light_encoder = dict(type=LightEncoder, width=(32,), blocks=(4,))
light_checkpoint = "data/demo-weights/light.pth"
light_network_checkpoint = "data/demo-weights/light_network.pth"
method = dict(type=MFD, ratio=10, ode_step=0.02)
# the learning rate is what the search of tools/table1.py found on data/world-tune
train_distill = dict(
    iterations=20, batch_size=8, lr=1e-4, warmup=10, clip=1.0, seed=0, val_interval=5,
    val_clips=16, checkpoint_interval=10,
)  # fmt: skip
advice = dict(
    data="make it with `python tools/make_world.py --out data/world --scenes 14 --val-scenes 12 --seed 0`",
    vae="make it with `python tools/train_vae.py configs/demo_train.py`",
    light="make it with `python tools/train_light.py configs/demo_train.py`",
    light_network="make it with the commands in configs/demo_light.py",
    teacher="make it with `python tools/train_teacher.py configs/demo_train.py`",
)
work_dir = "work_dirs/demo"

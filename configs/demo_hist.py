"""The demo on the past alone: where the ego car goes, and everybody else, is open.

    python tools/test.py configs/demo_hist.py data/demo-weights/hist_student.pth --samples 16

Results belong to the conditioning class `none`. Doubt is the product here: noise is drawn at its full
temperature, and nothing guides the teacher, which would make its futures alike (docs/results.md). The
student was made with `demo_hist_regression.py` and `demo_hist_student.py`, its teacher on a larger
world:

    python tools/train_teacher.py configs/demo_hist.py --cfg-options data.dataroot=data/world-train data.stride=4
"""

from mmengine.config import read_base

with read_base():
    from .demo_train import *

data.update(dataroot="data/world", stride=1)
conditioning.update(kind="hist")
network.update(trajectory=3)  # the displacements between four past frames
sampler.update(temperature=1.0)
guidance = 1.0
train_teacher.update(iterations=800)
light_network.update(trajectory=3)
light_network_checkpoint = "work_dirs/demo_hist/light_network.pth"
teacher_checkpoint = "data/demo-weights/hist_teacher.pth"
advice.update(
    data="make it with `python tools/make_world.py --out data/world --scenes 14 --val-scenes 12 --seed 0`",
    teacher="make it with `python tools/train_teacher.py configs/demo_hist.py --cfg-options "
    "data.dataroot=data/world-train data.stride=4`",
)
work_dir = "work_dirs/demo_hist"

"""The demo's teacher and student on the past alone: where the ego car will be is extrapolated.

python tools/make_world.py --out data/world-train --scenes 200 --val-scenes 6 --seed 1000 --no-lidar
python tools/train_teacher.py configs/demo_hist.py
python tools/train_mfd.py configs/demo_hist.py
python tools/test.py configs/demo_hist.py work_dirs/demo_hist/mfd/student.pth --cfg-options data.dataroot=data/world

The last command scores on the demo's world, which nothing is trained or tuned on. The autoencoder
is the shipped one; a teacher of this kind isn't shipped. Results belong to the conditioning class
`none`.
"""

from mmengine.config import read_base

with read_base():
    from .demo_train import *

conditioning.update(kind="hist")
network.update(trajectory=3)  # the displacements between four past frames
teacher_checkpoint = "work_dirs/demo_hist/teacher.pth"
advice.update(teacher="make it with `python tools/train_teacher.py configs/demo_hist.py`")
work_dir = "work_dirs/demo_hist"

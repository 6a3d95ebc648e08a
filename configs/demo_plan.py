"""The demo's planner: where the ego car will be, from its last three steps alone.

python tools/train_plan.py configs/demo_plan.py
python tools/train_mfd.py configs/demo_plan.py
python tools/test.py configs/demo.py data/demo-weights/student.pth --plan work_dirs/demo_plan/mfd/student.pth --samples 16

A flow over the next six steps, and its student of one evaluation. With plans of its own a model that
is made for a given one (`configs/demo.py`) forecasts from the past alone: conditioning class `pred`.
"""

from mmengine.config import read_base

from occdistill.flow.networks.plan import PlanField

with read_base():
    from .demo_train import *

data.update(stride=1)
conditioning = dict(kind="plan")
network = dict(type=PlanField, future=6, steps=3, width=128, layers=2)
guidance = 1.0  # of the motion alone there is nothing to leave out
sampler = dict(steps=10)
plan_checkpoint = "data/demo-weights/plan.pth"
train_plan = dict(
    iterations=3000, batch_size=256, lr=1e-3, warmup=100, final_lr=1e-5, clip=1.0, ema=0.998, seed=0,
    condition_dropout=0.0, mirror=True, val_interval=1000, checkpoint_interval=1000, compact=True,
)  # fmt: skip
method.update(ratio=5)
train_distill = dict(
    iterations=300, batch_size=256, lr=dict(student=6e-4, auxiliary=1e-3), warmup=20, final_lr=1e-5,
    clip=1.0, seed=0, mirror=True, val_interval=100, checkpoint_interval=100, compact=True,
)  # fmt: skip
advice.update(plan="make it with `python tools/train_plan.py configs/demo_plan.py`")
work_dir = "work_dirs/demo_plan"

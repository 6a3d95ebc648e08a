"""MFD beside its nearest kin on the embedded world: same teacher, student network and updates.

python tools/table1.py configs/table1/kin.py --budget updates
"""

from mmengine.config import read_base

with read_base():
    from .demo import *

work_dir = "work_dirs/kin"
clips = 0  # all
train.update(batch_size=8, val_clips=16)
rows = {key: rows[key] for key in ("mfd", "velocity", "diff_instruct", "no_auxiliary")}

"""Table 1 on the past alone: where the ego car will be is open, for every row and for the rule.

    python tools/train_teacher.py configs/demo_hist.py
    python tools/table1.py configs/table1/demo_hist.py --jobs 2 --budget updates

Rows, seeds, clips and search as in `demo.py`; the teacher is that of `configs/demo_hist.py`, which
names a larger world to train it on: its students are trained and scored on the same one as there.
"""

from mmengine.config import read_base

with read_base():
    from .demo import *

base = "configs/demo_hist.py"
work_dir = "work_dirs/table1-hist"
options = {"data.dataroot": "data/world", "data.stride": 1}

"""Table 1 on the embedded world, long enough to tell the methods apart; for a GPU.

    python tools/table1.py configs/table1/gpu.py --search --jobs 4
    python tools/table1.py configs/table1/gpu.py --jobs 4

The rows' learning rates are what the search found for configs/table1/demo.py after 10 updates:
put what it finds here after 200 into `rows` before the second command.
"""

from mmengine.config import read_base

with read_base():
    from .demo import *

work_dir = "work_dirs/table1-gpu"
updates = 1000
seeds = (0, 1, 2, 3, 4)
clips = 0  # all
train.update(batch_size=16, warmup=100, val_clips=48)
rows["mfd"]["method"].update(ratio=10, ode_step=0.02)
rows["velocity"]["method"].update(ratio=10)
rows["diff_instruct"]["method"].update(ratio=10)
rows["senseflow"]["method"].update(ratio=10)
rows["no_auxiliary"]["method"].update(ode_step=0.02)
rows["ayf_emd"]["method"].update(tangent_warmup=500)
rows["meanflow"]["method"].update(tangent_warmup=500)
search.update(updates=200)

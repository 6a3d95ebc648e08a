"""Table 1 on the embedded world with the published settings, for a GPU.

python tools/table1.py configs/table1/gpu.py --jobs 4
"""

from mmengine.config import read_base

with read_base():
    from .demo import *

work_dir = "work_dirs/table1-gpu"
updates = 1000
seeds = (0, 1, 2, 3, 4)
search.update(samples=16, clips=0)
clips = 0  # all
train.update(batch_size=16, warmup=100, val_clips=48)
rows["mfd"]["method"].update(ratio=10, ode_step=0.02)
rows["velocity"]["method"].update(ratio=10)
rows["diff_instruct"]["method"].update(ratio=10)
rows["senseflow"]["method"].update(ratio=10)
rows["no_auxiliary"]["method"].update(ode_step=0.02)
rows["ayf_emd"]["method"].update(tangent_warmup=500)
rows["meanflow"]["method"].update(tangent_warmup=500)

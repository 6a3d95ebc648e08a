"""What each way to a cheaper MFD costs in quality: alone, and together.

    python tools/table1.py configs/table1/price.py configs/table1/price_hist.py --budget updates

Every row takes as many student updates as the paper's setting, `full`. Adapters have ten times the
auxiliary's learning rate, as is usual for them; nothing else is tuned.
"""

from occdistill.distill.mfd import MFD

base = "configs/demo.py"
title = "The price of MFD, measured"
work_dir = "work_dirs/price"
reference = "full"
updates = 20
seeds = (0, 1, 2)
clips = 60
train = dict(batch_size=4, lr=1e-4, warmup=10, clip=1.0, val_interval=10, val_clips=12)
rows = dict(
    full=dict(
        title="the paper's price", method=dict(type=MFD, ratio=10, ode_step=0.02, solver="euler")
    ),
    midpoint=dict(
        title="midpoint steps of 0.15",
        method=dict(type=MFD, ratio=10, ode_step=0.15, solver="midpoint"),
    ),
    falling=dict(
        title="ratio 10, falling to 4",
        method=dict(type=MFD, ratio=10, final_ratio=4, fall=10, ode_step=0.02),
    ),
    reuse=dict(
        title="a sample for 5 auxiliary updates",
        method=dict(type=MFD, ratio=10, reuse=5, ode_step=0.02),
    ),
    adapters=dict(
        title="adapters on the teacher",
        method=dict(type=MFD, ratio=10, auxiliary_rank=16, ode_step=0.02),
        train=dict(lr=dict(student=1e-4, auxiliary=1e-3)),
    ),
    student_adapters=dict(
        title="adapters on the student",
        method=dict(
            type=MFD, ratio=10, auxiliary_rank=16, auxiliary_base="student", ode_step=0.02
        ),
        train=dict(lr=dict(student=1e-4, auxiliary=1e-3)),
    ),
    cheap=dict(
        title="midpoint, falling, reuse",
        method=dict(
            type=MFD, ratio=10, final_ratio=4, fall=10, reuse=5, ode_step=0.15, solver="midpoint"
        ),
    ),
    cheap_adapters=dict(
        title="midpoint, falling, reuse, adapters on the teacher",
        method=dict(
            type=MFD, ratio=10, final_ratio=4, fall=10, reuse=5, ode_step=0.15, solver="midpoint",
            auxiliary_rank=16,
        ),
        train=dict(lr=dict(student=1e-4, auxiliary=1e-3)),
    ),
)  # fmt: skip

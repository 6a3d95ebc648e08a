"""Students with 1, 2, 4 and 8 evaluations per forecast, on the embedded world.

    python tools/table1.py configs/table1/steps.py --budget updates --jobs 2

Flow maps, a consistency student, and distribution matching with students trained for one evaluation
and for four. Learning rates and settings are those of `demo.py`; composition has AYF's.
"""

from mmengine.config import read_base

from occdistill.distill.composition import Composition

with read_base():
    from .demo import *

work_dir = "work_dirs/table1-steps"
updates = 15
samples = 4
search = {}
steps = (1, 2, 4, 8)
rows = dict(
    mfd=rows["mfd"],
    mfd4=dict(
        title="MFD, four steps",
        method=dict(type=MFD, ratio=5, ode_step=0.05, steps=4),
        train=dict(lr=1e-4),
    ),
    consistency=rows["consistency"],
    ayf_emd=rows["ayf_emd"],
    meanflow=rows["meanflow"],
    composition=dict(title="composition", method=dict(type=Composition), train=dict(lr=3e-4)),
)

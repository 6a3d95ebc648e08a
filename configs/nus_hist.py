"""As `nus.py` for OccFM's history model, which sees the past and one step of the trajectory more.

    python tools/import_occfm.py weights FILE.ckpt --variant occfm
    python tools/train_mfd.py configs/nus_hist.py

The sixth trajectory entry is the step from the newest past frame to the first future one: results
belong to the conditioning class `hist+1`.
"""

from mmengine.config import read_base

with read_base():
    from .nus import *

network.update(trajectory_length=6)
light_network.update(trajectory_length=6)
conditioning.update(kind="hist+1")
vae_checkpoint = "data/occfm/occfm/vae.pth"
teacher_checkpoint = "data/occfm/occfm/teacher.pth"
light_checkpoint = "data/occfm/occfm/light.pth"
light_network_checkpoint = "data/occfm/occfm/light_network.pth"
advice.update(
    light="make it with `python tools/train_light.py configs/nus_hist.py`",
    vae="download OccFM's history model and run "
    "`python tools/import_occfm.py weights FILE.ckpt --variant occfm`",
    teacher="download OccFM's history model and run "
    "`python tools/import_occfm.py weights FILE.ckpt --variant occfm`",
)
work_dir = "work_dirs/nus_hist"

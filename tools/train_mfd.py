"""Distil the config's teacher into a one-step student by Mean Flow Distillation.

    python tools/train_mfd.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]

As `train_distill.py`, with MFD whatever method the config names.
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "distill", "MFD"))

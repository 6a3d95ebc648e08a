"""Distil the config's teacher into a student, with the config's method or another one's defaults.

python tools/train_distill.py CONFIG [--method alphaflow] [--resume] [--work-dir DIR] [--list-methods]
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "distill"))

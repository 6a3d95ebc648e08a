"""Distil the config's teacher into a one-step student, with the config's method.

python tools/train_distill.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "distill"))

"""Distil the config's teacher into a one-step student, with the config's method or another one.

    python tools/train_distill.py CONFIG [--method alphaflow] [--resume] [--work-dir DIR]
    python tools/train_distill.py --list-methods      # what each needs and costs

A method that isn't the config's has its defaults, and what `--cfg-options method.NAME=VALUE` says.
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "distill"))

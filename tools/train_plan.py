"""Train the planner: a small flow over the ego's next steps.

python tools/train_plan.py CONFIG [--resume] [--work-dir DIR] [--cfg-options key=value …]
"""

from _train import main

from occdistill.errors import run

if __name__ == "__main__":
    run(lambda: main(__doc__, "plan"))

"""Table 1 on plans: methods told apart where the future is really open.

The ego's next six steps given its last three, and what the map says of the junction ahead: it may
turn left or right, go straight, or brake. An average of these is a plan that nobody drives, and that
is what one step of a teacher gives. Trained on drives of the embedded world
(`world.simulate.drives`), scored on towns that nothing was trained on. Every method starts from the
same teacher; nothing of a method but its ratio and its student's learning rate is changed.

`windows.py` cuts drives, `runs.py` trains what isn't trained yet, `scores.py` judges, `report.py`
tells. What was trained stays in the study's folder, and a second process beside the first takes
other runs.
"""

from occdistill.studies.plans.report import study as study

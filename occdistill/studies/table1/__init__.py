"""Table 1: every method from one teacher, on one data set, with one student and one budget.

A *row* is a method with its settings. A *budget* says what all rows have in common: the same number
of student updates, or the same number of network evaluations spent on training. A *run* is a row, a
budget and a seed; it trains with the code of `tools/train_distill.py`, takes the last weights (never
the best on validation), and leaves a folder:

    <work_dir>/<budget>/<row>/seed<N>/    student.pth, curves, counts/, run.json (when finished)

`plan.py` reads the table's config, `runs.py` makes the folders, `report.py` reads them.
"""

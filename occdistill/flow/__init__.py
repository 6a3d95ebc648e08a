"""The velocity field: path, guidance, solvers and networks."""

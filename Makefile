# One command per job; each sets up what it needs. `make PYTHON=python3.12 demo` picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: setup demo test test-slow lint bench clean

setup: $(VENV)/.ready  ## virtual environment, packages, system libraries for rendering

$(VENV)/.ready: requirements.txt tests/constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q -r requirements.txt -c tests/constraints.txt ruff
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	-@$(BIN)/python tools/system_packages.py
	touch $@

demo: setup  ## the whole chain on the embedded world: work_dirs/demo/report.md and forecast.gif
	$(BIN)/python tools/demo.py configs/demo.py

test: setup  ## the fast test suite
	$(BIN)/python -m pytest

test-slow: setup  ## everything, also full-size networks
	$(BIN)/python -m pytest --slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup  ## one timing table: work_dirs/bench/bench.json
	$(BIN)/python tools/bench.py

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .ruff_cache

# One command per job; each sets up what it needs. `make PYTHON=python3.12 demo` picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg
# the versions that the tests ran on; they are Python 3.11's
PINNED := $(shell $(PYTHON) -c 'import sys; print("-c tests/constraints.txt" * (sys.version_info[:2] == (3, 11)))')

.DEFAULT_GOAL := help
.PHONY: help setup demo weights test test-slow full-size mutate lint bench gpu-check docs clean

help:  ## these lines
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/.ready  ## virtual environment, packages, system libraries for rendering

$(VENV)/.ready: requirements.txt tests/constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q -r requirements.txt $(PINNED) ruff import-linter
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	-@$(BIN)/python tools/system_packages.py
	touch $@

demo: setup  ## the whole chain on the embedded world: work_dirs/demo/report.md and forecast.gif
	$(BIN)/python tools/demo.py configs/demo.py

# Trained in a folder of their own: a training keeps the weights that lie where the next one looks,
# which would go on with the shipped ones.
WEIGHTS := work_dirs/weights
INTO := --resume --cfg-options work_dir=$(WEIGHTS) \
	$(foreach part,vae light teacher lidar_encoder plan,$(part)_checkpoint=$(WEIGHTS)/$(part).pth)
# on the past alone, with the same VAE
HIST := $(WEIGHTS)/hist
INTO_HIST := $(INTO) work_dir=$(HIST) teacher_checkpoint=$(HIST)/teacher.pth

weights: setup  ## data/demo-weights anew, 3 h; a world that is complete is left as it is
	$(BIN)/python tools/make_world.py --out data/world-train --scenes 200 --val-scenes 6 --seed 1000 --no-lidar
	$(BIN)/python tools/make_world.py --out data/world --scenes 14 --val-scenes 12 --seed 0
	$(BIN)/python tools/train_vae.py configs/demo_train.py $(INTO)
	$(BIN)/python tools/train_light.py configs/demo_train.py $(INTO)
	$(BIN)/python tools/train_teacher.py configs/demo_train.py $(INTO)
	$(BIN)/python tools/train_lidar_encoder.py configs/demo_lidar.py $(INTO)
	$(BIN)/python tools/train_plan.py configs/demo_plan.py $(INTO)
	$(BIN)/python tools/train_mfd.py configs/demo_plan.py $(INTO) --work-dir $(WEIGHTS)/plan_mfd
	$(BIN)/python tools/train_mfd.py configs/demo.py $(INTO) train_distill.compact=True
	$(BIN)/python tools/train_teacher.py configs/demo_hist.py $(INTO_HIST) data.dataroot=data/world-train data.stride=4
	$(BIN)/python tools/train_distill.py configs/demo_hist_regression.py $(INTO_HIST)
	$(BIN)/python tools/train_mfd.py configs/demo_hist_student.py $(INTO_HIST) student_checkpoint=$(HIST)/regression/student.pth
	cp $(WEIGHTS)/*.pth $(WEIGHTS)/mfd/student.pth data/demo-weights/
	cp $(HIST)/teacher.pth data/demo-weights/hist_teacher.pth
	cp $(HIST)/mfd/student.pth data/demo-weights/hist_student.pth
	cp $(WEIGHTS)/plan_mfd/student.pth data/demo-weights/plan_student.pth
	$(BIN)/python tests/test_demo_weights.py

test: setup  ## the fast test suite, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup  ## everything, also full-size networks
	$(BIN)/python -m pytest --slow

full-size: setup  ## a user's first day at 200×200×16 on this CPU: half an hour on two idle cores
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest --slow -s tests/occfm/test_user.py -k full_size

mutate: setup  ## do the tests notice? about five hundred wrong formulas, one at a time; three quarters of an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutate.py

lint: setup  ## style, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: setup  ## one timing table: work_dirs/bench/bench.json
	$(BIN)/python tools/bench.py
	$(BIN)/python benchmarks/check_cost.py

gpu-check: setup  ## a machine with CUDA, checked and timed in ten minutes: work_dirs/gpu_check/gpu_check.md
	$(BIN)/python tools/gpu_check.py

docs: setup  ## the documentation as a site: work_dirs/site
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[docs]"
	$(BIN)/python -m mkdocs build

clean:  ## remove the environment and everything that was made
	rm -rf $(VENV) work_dirs .pytest_cache .ruff_cache

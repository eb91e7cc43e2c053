# make demo   train small faces for a minute or two with plots on, then show them
# make test   all tests, as many at once as there are cores (PYTEST_ARGS=-n0: one by one)
# make lint   style and types      make bench   timings
# make gpu-check   what only a GPU can show, in six minutes
# make audit  known vulnerabilities      make lock   pin again after a change of requirements
# The first of them creates .venv and installs everything; later ones do not install again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EPOCHS ?= 85
PYTEST_ARGS ?=

.PHONY: demo test lint bench gpu-check audit lock install clean-venv
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt requirements.lock packaging/pip.txt \
    $(wildcard packaging/visdom/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and \
	    "Python 3.11 to 3.14 is needed: make PYTHON=python3.13")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch and what else is needed into $(VENV): one to three minutes."
	-$(BIN)/python -m pip install --require-hashes -r packaging/pip.txt
	$(BIN)/python -m pip install --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install -r requirements-dev.txt
	@echo "Fetching the scripts of Visdom's page."
	-$(BIN)/python -m eyescream_py.plots.assets
	touch $@

demo: $(STAMP)
	$(BIN)/python train.py --scale=16 --grayscale --recipe=best --epochs $(EPOCHS) --N_epoch 1000 --saveFreq 10
	$(BIN)/python -m eyescream_py movie
	$(BIN)/python sample.py --neighbours --runs 1 --interpolate 60

# each file in one process, each process on one thread
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=loadfile $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.train_step --output benchmarks/results/train_step.md
	$(BIN)/python -m benchmarks.sampling --output benchmarks/results/sampling.md
	$(BIN)/python -m benchmarks.growth --output benchmarks/results/growth.md

# on a machine with a GPU; with another python than .venv's: make gpu-check GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu-check:
	$(GPU_PYTHON) -m scripts.gpu_check $(GPU_ARGS) --output benchmarks/results/gpu.md

audit: $(STAMP)
	$(BIN)/python scripts/audit.py

lock: $(STAMP)
	$(BIN)/python scripts/lock.py

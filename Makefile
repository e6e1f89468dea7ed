# Everything a developer runs; the continuous integration calls the same targets.
#
# The targets work in the active virtual environment or, without one, in .venv, and install what they need first.

PYTHON ?= python3
VENV ?= $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.birefnet-ready

# Modules are compiled when they are first imported: most never are, and all of them take a minute.
PIP := $(BIN)/python -m pip install --quiet --no-compile

# The release the checks are run with. Another that pyproject.toml admits, in a new environment:
# make test VENV=.venv-other TORCH='torch>=2.6'
TORCH ?= torch==2.13.0

# Processes that share the tests, file by file; each was seen to take 2 GB, and what its tests start comes on top.
JOBS ?= 2

# Two processes whose threads wait for each other would take longer than one. In the order of the folders the tests that
# take longest come first, so that no process is left alone with them at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help check test long quick fix
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) '$(TORCH)'
	$(PIP) --editable '.[dev]'
	touch $@

check: $(READY) ## lint, types, floors, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: $(READY) ## the tests, but exports of many kinds, which take minutes
	$(PYTEST) -m 'not long'

long: $(READY) ## the tests that take minutes: exports of many kinds and whole networks
	$(BIN)/python -m pytest -m long

quick: $(READY) ## the tests that take no more than seconds
	$(PYTEST) -m 'not slow and not long'

fix: $(READY) ## format and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

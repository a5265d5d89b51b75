# TheWorld: `make` lists the targets; `make run` goes from a fresh clone to an answer.
.DEFAULT_GOAL := help
.PHONY: help setup format check typecheck test test-versions test-gpu test-slurm test-lmms test-browser test-fuzz dist run demo train-simple train-hf smoke-test eval-blink eval-gemma compare-results docs clean

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := nano,train,wandb,eval,judge,analysis,serve,demo,docs,dev
CONFIG ?= configs/default.json
# The number of processors + 1, because tests wait for servers; at most 4, because each takes 2 GB
WORKERS ?= $$($(BIN)/python -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")
# Make an environment; make it again if it has an old Python, or no pip after an interruption
OLDEST := (3, 11)
TOO_OLD = Python %d.%d is too old: TheWorld needs 3.11 or newer. Run: make $(MAKECMDGOALS) PYTHON=python3.12
venv = $(1)/bin/python -c "import pip, sys; sys.exit(sys.version_info < $(OLDEST))" >/dev/null 2>&1 || { \
	$(PYTHON) -c "import sys; sys.exit('$(TOO_OLD)' % sys.version_info[:2] if sys.version_info < $(OLDEST) else 0)" && \
	$(PYTHON) -m venv --clear $(1); }
EVALUATED = $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA))
SOURCES := $(wildcard src tests examples benchmarks scripts deploy notebooks)
INSTALLED := .venv/.installed-$(EXTRAS)
LMMS_INSTALLED := .venv-lmms/.installed
VERSION_TESTS := tests/test_baseline_equivalence.py tests/model/test_ecosystem.py tests/model/test_generate.py \
	tests/model/test_new_process.py tests/test_auto_classes.py tests/test_trl.py

# Modules are compiled when they are first imported, also where the environment asks Python to keep no compiled files
export PYTHONDONTWRITEBYTECODE :=

# `make check typecheck test` runs them side by side
ifeq ($(filter-out check typecheck test,$(or $(MAKECMDGOALS),help)),)
MAKEFLAGS += --jobs=3
endif

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install the package into .venv (does nothing when up to date)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv; the first time this takes a minute or two." >&2
	@$(call venv,.venv)
	@$(BIN)/python scripts/install.py -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

format: setup ## Format the code and sort the imports
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

check: setup ## Check format and lint
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

typecheck: setup ## Check types
	$(BIN)/basedpyright

test: setup ## Run the tests (CPU, offline)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-versions: test-oldest test-newest ## Run the identity and ecosystem tests with the oldest and the newest versions admitted

test-oldest test-newest: test-%: .venv-%/.installed
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -q -n $(WORKERS) $(VERSION_TESTS)

# Packages that tests/versions/*.txt do not name come from .venv.
.venv-%/.installed: tests/versions/%.txt $(INSTALLED)
	@rm -rf .venv-$* && $(BIN)/python -m venv --without-pip .venv-$*
	@$(BIN)/python -m pip --python .venv-$* install --quiet --disable-pip-version-check --no-deps -r $<
	@$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	> $$(.venv-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/theworld_base.pth
	@touch $@

test-gpu: setup ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

test-slurm: setup ## Run the tests that start a SLURM of their own
	@for program in munged slurmctld slurmd; do PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || \
	{ echo "make test-slurm needs $$program: apt-get install slurm-wlm munge" >&2; exit 1; }; done
	PATH=$$PATH:/usr/sbin $(BIN)/python -m pytest -q -m slurm

test-lmms: $(LMMS_INSTALLED) ## Run the tests that need lmms-eval, in an environment of its own (.venv-lmms)
	OMP_NUM_THREADS=1 .venv-lmms/bin/python -m pytest -q -m lmms tests/evaluation/lmms

# lmms-eval pins an older wandb, with which protobuf and av have to be older too
$(LMMS_INSTALLED): pyproject.toml constraints.txt
	@$(call venv,.venv-lmms)
	@grep -vE '^(av|protobuf|wandb)==' constraints.txt > .venv-lmms/constraints.txt
	@.venv-lmms/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lmms/constraints.txt \
	-e ".[lmms,nano]" pytest
# Built for CUDA on PyPI: beside a CPU torch it fails on import, and takes transformers with it. Nothing here needs it.
	@.venv-lmms/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

test-browser: setup ## Click through the demo in a headless Chromium
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ echo "make test-browser needs Chromium: apt-get install chromium" >&2; exit 1; }
	$(BIN)/python -m pytest -q -m browser

test-fuzz: setup ## Read 10,000 damaged images, rows, configs, checkpoints, caches and predictions: ARGS="--n rows=50"
	$(BIN)/python -m tests.fuzz.run $(ARGS)

dist: setup ## Build the wheel and the source distribution into dist/, and check them for PyPI
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/python -m twine check --strict dist/*

run: setup ## Ask the shipped nano model what happens next
	$(BIN)/python examples/inference.py

demo: setup ## Try the shipped nano model in the browser
	$(BIN)/theworld demo

train-simple: setup ## Train the nano model on three images, from Python
	$(BIN)/python examples/simple_training.py

train-hf: setup ## Train as a config says: CONFIG=configs/default.json ARGS="--key value"
	$(BIN)/python scripts/train_hf.py --config $(CONFIG) $(ARGS)

smoke-test: setup ## Two samples through train, save, push to a Hub on loopback, load from there, answer
	$(BIN)/python -m scripts.smoke_test

eval-blink: setup ## BLINK in every arm: MODEL=nano DATA=folder ARGS="--num_samples 20"
	$(BIN)/python scripts/evaluate_blink.py --config configs/eval_blink.json $(EVALUATED) $(ARGS)

eval-gemma: setup ## The same for the Gemma that MODEL was built on, alone
	$(BIN)/python scripts/evaluate_blink.py --config configs/eval_blink.json --arms gemma --output runs/eval_gemma $(EVALUATED) $(ARGS)

compare-results: setup ## Report on evaluations: ARGS="--theworld DIR --baseline DIR --output DIR"
	$(BIN)/python scripts/compare_results.py $(ARGS)

docs: setup ## Build the documentation site into site/, without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove the environment, caches and build outputs
	rm -rf .venv .venv-lmms .venv-oldest .venv-newest build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

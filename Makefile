# The README's commands. `make repro` builds the demo dataset, `make test` proves the code; both set up what they need.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A process per core; the tests of a module stay together, so that what they share is built once.
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder
# PyTorch has an environment of its own: nothing else needs it, and with CUDA it takes 5 GB.
LEARN := .venv-learn
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
# Bytecode is kept the first time that a module is imported: for all 18,600 files it takes 58 CPU-seconds, for those that a build imports 8.5.
export PYTHONDONTWRITEBYTECODE :=
# An interpreter that really runs (version managers leave stubs on the PATH); empty: uv finds or fetches one.
PYTHON := $(shell for candidate in python3.13 python3.12 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13.*/bin/python $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12.*/bin/python; do \
	"$$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && command -v "$$candidate" && break; done)

.PHONY: help env learn repro baseline test test-fast test-learn lint format reference docs lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

env: $(READY) ## the environment in .venv, exactly as locked

learn: $(LEARN)/.ready ## the same with PyTorch in .venv-learn

repro: env ## build the dataset that params.yaml asks for (the demo, out of the box)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

baseline: learn ## train the example network on the built dataset, predict and score it
	cd baseline && PATH="$(CURDIR)/$(LEARN)/bin:$$PATH" dvc repro

test: env ## the whole test suite
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: env ## the tests that take seconds
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-learn: learn ## the tests that need PyTorch
	$(LEARN)/bin/python -m pytest -m learn

lint: env ## format, lint and types, as CI checks them
	$(BIN)/ruff format --check src tests benchmarks docs baseline
	$(BIN)/ruff check src tests benchmarks docs baseline
	$(BIN)/mypy

format: env ## rewrite the code in the project's format
	$(BIN)/ruff format src tests benchmarks docs baseline
	$(BIN)/ruff check --fix src tests benchmarks docs baseline

reference: env ## write the pages of docs/reference that are made from the code
	$(BIN)/python docs/make_reference.py

docs: env ## the documentation as a site in site/, with every link checked; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

lock: $(UV) ## recompute requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --extra pipeline --extra evaluate --extra view --group dev --group docs --universal --python-version 3.12 --generate-hashes --no-emit-index-url --no-header --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra pipeline --extra evaluate --extra view --extra learn --group dev --group notebooks --constraint requirements.lock --universal --python-version 3.12 --generate-hashes --no-emit-index-url --no-header --output-file requirements-learn.lock

clean: ## remove the environment and the work cache, never data
	rm -rf $(VENV) $(LEARN) .tools .work

$(READY): requirements.lock pyproject.toml | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python "$(or $(PYTHON),>=3.12,<3.14)" $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	$(BIN)/python -c 'import pathlib, vl_convert; pathlib.Path(".dvc/vega.js").write_text(vl_convert.javascript_bundle(vl_version="5.20"), "utf-8")'
	touch $@

$(LEARN)/.ready: requirements-learn.lock pyproject.toml | $(UV)
	test -x $(LEARN)/bin/python || $(UV) venv --quiet --python "$(or $(PYTHON),>=3.12,<3.14)" $(LEARN)
	$(UV) pip sync --quiet --python $(LEARN)/bin/python requirements-learn.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(LEARN)/bin/python --editable .
	touch $@

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

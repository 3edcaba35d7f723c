# Everything runs in .venv, made on first use. PYTHON chooses the interpreter, ARGS goes to pytest or the benchmark.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
FIGURES := $(VENV)/figures.jsonl
DOCS_TESTS := $(wildcard tests/docs tests/unit/test_docs.py)
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install

.DEFAULT_GOAL := help
.PHONY: help demo test faults check bench docs
# one pip at a time in one environment
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## this menu
	@echo "redismem: shared memory for fleets of AI-agent workers"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'For example: make test ARGS="-k codec", make demo PYTHON=python3.12'

demo: $(VENV)/demo.stamp ## worker processes share one memory through a real server
	@$(BIN)/redismem demo

test: $(VENV)/test.stamp ## the whole test suite, on every server found here
	@$(BIN)/python -m pytest --no-header -n $(JOBS) --dist worksteal $(ARGS)

faults: $(VENV)/test.stamp ## the fault suite at full length, and its figures
	@rm -f $(FIGURES)
	@REDISMEM_LONG=1 REDISMEM_FIGURES=$(FIGURES) $(BIN)/python -m pytest --no-header -o timeout=3600 \
		tests/faults tests/contract/test_cluster.py tests/contract/test_sentinel.py $(ARGS)
	@$(BIN)/python -m tests.faults.report $(FIGURES)

check: $(VENV)/lint.stamp ## format, lint and types
	@$(BIN)/ruff format --check --quiet || { echo "$(BIN)/ruff format puts it right"; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/bench.stamp ## side by side with other clients
	@$(BIN)/python bench/run.py $(ARGS)

docs: $(VENV)/test.stamp ## run what the documentation shows
	@$(if $(DOCS_TESTS),$(BIN)/python -m pytest --no-header -q $(DOCS_TESTS) $(ARGS),echo "no tests of the documentation yet")

$(VENV)/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "redismem needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/demo.stamp: $(VENV)/pip.stamp pyproject.toml
	@echo "Installing redismem into $(VENV), once"
	@$(PIP_INSTALL) --editable ".[embedded,zstd,cli]"
	@touch $@

# test, lint and bench are dependency groups of pyproject.toml
$(VENV)/%.stamp: $(VENV)/pip.stamp pyproject.toml
	@echo "Installing redismem and what $* needs into $(VENV), once"
	@$(PIP_INSTALL) --editable ".[all]" --group $*
	@touch $@

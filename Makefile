# `make demo` shows the whole thing, `make test` runs what CI runs, `make check` lints. Each builds what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

# The system's Python where it will do (venv and C headers are packages of their own): distributions build theirs with
# profile-guided and link-time optimisation, version managers by default without, and all of ours feels it.
SYSTEM_PYTHON := /usr/bin/python3
WILL_DO := import ensurepip, os, sys, sysconfig; \
	sys.exit(sys.version_info < (3, 11) or not os.path.exists(sysconfig.get_path("include") + "/Python.h"))
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c '$(WILL_DO)' 2>/dev/null && echo $(SYSTEM_PYTHON) || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
# The demo needs little; who develops needs the frameworks of producers/integrations, too, which are large.
RUNNABLE := $(VENV)/.installed-local
INSTALLED := $(VENV)/.installed-dev
CONSTRAINTS := infra/constraints.txt

COMPILED := build/compiled
TRAINING := tests/bench/training.py
# What runs compiled: the fold over runs, and what it reads and writes with.
FOLD_TESTS := $(addprefix tests/unit/test_,decoding.py packing.py partials.py processors_budgets.py \
	processors_run_state.py rating.py replay.py rules_on_traces.py run_budgets.py run_costs.py run_fold.py run_rules.py \
	run_time.py sketch.py writing.py) tests/contracts/test_price_book.py

.PHONY: help install demo test test-compiled check compile bench events rules-table constraints console-assets clean

help:
	@sed -n '1s/^# //p' Makefile
	@echo "targets: demo test test-compiled check compile bench events rules-table constraints console-assets clean"

$(RUNNABLE): EXTRAS := local
$(INSTALLED): EXTRAS := dev,integrations
$(RUNNABLE) $(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@echo "installing into $(VENV) (the first time takes a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "agentledger needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	@touch $@

install: $(INSTALLED)

demo: $(RUNNABLE)
	@$(BIN)/agentledger demo

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .mypy_cache
	$(BIN)/mypy | tee .mypy_cache/summary.txt
	$(BIN)/python tests/typing/count_checked.py .mypy_cache/summary.txt
	$(BIN)/lint-imports
	$(BIN)/python -m agentledger.infra.codegen --check
	$(BIN)/agentledger schemas check

test: check
	$(BIN)/python -m tests.whole_run

# A copy of our sources with compiled folds, for whoever has a C compiler: PYTHONPATH=build/compiled agentledger worker
compile: $(INSTALLED)
	$(BIN)/python -m agentledger.infra.compilation $(COMPILED) $(TRAINING)

test-compiled: compile
	PYTHONPATH=$(COMPILED) $(BIN)/pytest --numprocesses 2 $(FOLD_TESTS)

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench

events: $(INSTALLED)
	$(BIN)/python -m agentledger.infra.codegen
	$(BIN)/agentledger schemas lock

rules-table: $(INSTALLED)
	$(BIN)/python -m tests.rules_table --write

# The newest versions that go together, found in an environment of its own; it takes ten minutes.
constraints:
	rm -rf build/newest && $(PYTHON) -m venv build/newest
	build/newest/bin/pip install --quiet --disable-pip-version-check '.[dev,integrations]'
	sed -n '/^#/p' $(CONSTRAINTS) > build/constraints.txt
	build/newest/bin/pip freeze --exclude agentledger >> build/constraints.txt
	mv build/constraints.txt $(CONSTRAINTS)

# The console's scripts of others, as npm has them: kept in the repository, so that users need neither npm nor a build.
console-assets:
	.ci/console-assets sinks/console/static

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build bench.json

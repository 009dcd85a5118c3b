# `make` lists the targets. Everything is installed into .venv from the hash-pinned locks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ACCURACY := .venv-accuracy
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
.DEFAULT_GOAL := help
.PHONY: help install demo demo-kafka up test chaos fuzz check format bench bench-scale soak benchmark-accuracy docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Salescast needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.python requirements.lock pyproject.toml
	@echo "installing from requirements.lock ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.lock
	@echo "installing from requirements-test.lock ..."
	@$(PIP) install --require-hashes -r requirements-test.lock
	@touch $@

install: $(VENV)/.run ## create .venv and install Salescast into it

demo: $(VENV)/.run ## a year of real sales: learned, served and scored while you watch
	@$(BIN)/salescast demo

demo-kafka: $(VENV)/.run ## the same on a real Apache Kafka and Redis (Java 17+, Maven, redis-server)
	@$(BIN)/salescast demo --kafka

up: $(VENV)/.run ## the embedded mode for your own sales: learner, API, page and console
	@$(BIN)/salescast up

# Hundreds of processes are started: each module is compiled once, whatever the environment says.
# In the order of the folders: the chaos, which mostly waits, is not left to the end; and one worker
# more than there are cores, at most four, works while others wait.
test: $(VENV)/.test ## install all that tests need, and test, with the short part of the chaos
	@$(BIN)/python -m infra.parts
	@PYTHONDONTWRITEBYTECODE= CHAOS_SHORT=1 $(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))') --dist loadfile --no-loadscope-reorder tests

check: $(VENV)/.test ## what CI runs: format, lint, types, tests, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

chaos: $(VENV)/.test ## break real learners, brokers and stores, and compare (CHAOS_SHORT=1: a short part)
	@$(BIN)/python -m infra.parts
	@$(BIN)/python -m pytest -q --timeout=1800 tests/chaos

fuzz: $(VENV)/.test ## any bytes at all, many times over (FUZZ_INPUTS, SCHEMATHESIS_EXAMPLES)
	@FUZZ_INPUTS=$${FUZZ_INPUTS:-100000} $(BIN)/python -m pytest -q --timeout=0 tests/unit/test_fuzz.py
	@FOLD_LOGS=$${FOLD_LOGS:-500} $(BIN)/python -m pytest -q --timeout=0 tests/unit/test_fold.py
	@SCHEMATHESIS_EXAMPLES=$${SCHEMATHESIS_EXAMPLES:-300} $(BIN)/python -m pytest -q --timeout=0 tests/integration/test_openapi.py

format: $(VENV)/.test ## format the code, and mend what lint can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.test ## time each stage beside its bare limit
	@$(BIN)/python -m tests.bench

bench-scale: $(VENV)/.test ## Kafka, snapshots of a million series, hand-over, two learners, operations
	@$(BIN)/python -m tests.bench --full sqlite kafka snapshot scale operations

soak: $(VENV)/.test ## half an hour at a full rate: memory, file handles and lag flat
	@$(BIN)/python -m tests.bench.soak $(ARGS)

$(ACCURACY)/.made: requirements-accuracy.lock pyproject.toml
	@$(PYTHON) -m venv $(ACCURACY)
	@echo "installing from requirements-accuracy.lock ..."
	@$(ACCURACY)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-accuracy.lock
	@$(ACCURACY)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

benchmark-accuracy: $(ACCURACY)/.made ## accuracy beside LightGBM, AutoETS and River's models, into docs/accuracy.md
	@$(ACCURACY)/bin/python -m tests.bench.accuracy.compare $(ARGS)

docs: $(VENV)/.run ## write docs/settings.md and docs/schemas anew
	@$(BIN)/python -m scripts.docs

lock: $(VENV)/.test ## resolve the locks anew
	@$(BIN)/python -m pip --quiet install uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra install --extra test pyproject.toml -o requirements-test.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra install -c requirements-test.lock pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra install --extra accuracy -c requirements-test.lock pyproject.toml -o requirements-accuracy.lock

clean: ## remove the environment, not the data
	@rm -rf $(VENV) $(ACCURACY) .mypy_cache .ruff_cache .pytest_cache .hypothesis

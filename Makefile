# deftbed: `sudo make run` sets up what is missing and runs the main comparison.
SHELL := /bin/bash
SCENARIO ?= scenarios/abilene.yaml
PYTEST_ARGS ?=
SEEDS ?= 100000
JOBS ?= 2
VM_TEST_ARGS ?=
BIN := .venv/bin
ENVIRONMENT := . scripts/environment.sh;
ROOT := scripts/with-root.sh
UV := .venv-lock/bin/uv

.DEFAULT_GOAL := help
.PHONY: help run test setup lint unit simulate vm-test clean lock
.NOTPARALLEL:

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: setup ## compare the policies of SCENARIO (scenarios/abilene.yaml); needs root
	@$(ROOT) $(BIN)/deftbed compare $(SCENARIO)

test: setup lint ## every check and every test; needs root
	@$(ROOT) $(BIN)/python -m pytest $(PYTEST_ARGS)

setup: ## install what is missing, at pinned versions
	@scripts/setup.sh

lint: setup ## style and types
	@$(ENVIRONMENT) $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

unit: setup ## the tests that need neither root nor much time
	@$(ENVIRONMENT) $(BIN)/python -m pytest -q -m 'not emulation and not peers and not slow' $(PYTEST_ARGS)

simulate: setup ## run the replication protocol through SEEDS (100000) simulated worlds of faults
	@$(ENVIRONMENT) $(BIN)/python -m tests.protocol.campaign --seeds $(SEEDS) --jobs $(JOBS)

vm-test: ## run provision.sh and a scenario in a Debian 12 machine; options in VM_TEST_ARGS
	@vagrant/vm-test.sh $(VM_TEST_ARGS)

clean: setup ## remove what a run that was killed left on this machine
	@$(ROOT) $(BIN)/deftbed clean

lock: ## pin anew what requirements.in asks for
	@test -x $(UV) || { python3 -m venv .venv-lock && .venv-lock/bin/pip install -q uv==0.13.8; }
	@scripts/lock.sh $(UV)

# `make` lists what there is to do. Every target sets up `.venv` on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench gpu clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: $(READY) ## learn five tasks of permuted digits on this machine and show that nothing is forgotten
	$(BIN)/python -m hat train --tasks 5 --hidden 800 800 --epochs 20 --momentum 0.9 --lr 0.02 --reference alone \
		--run-dir runs/digits --overwrite

test: $(READY) ## run the tests
	$(BIN)/python -m pytest

lint: $(READY) ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure the CPU step against plain and textbook; writes benchmarks/results/cpu.json
	$(BIN)/python -m benchmarks

gpu: ## tests and benchmarks on a GPU
	@echo "nothing yet: the Triton kernels and their GPU tests come with the next version"

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

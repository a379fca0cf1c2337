# `make` lists the targets. Every target except `gpu` sets up `.venv` on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := triton-3.6.0
# One process per core, one thread per process: several threads on small tensors mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test again soak fuzz lint format bench kernels zoo gpu clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: $(READY) ## learn five tasks of permuted digits on this machine and show that nothing is forgotten
	$(BIN)/python -m hat train --tasks 5 --hidden 800 800 --epochs 16 --momentum 0.9 --lr 0.05 --dropout 0.2 \
		--reference alone --run-dir runs/digits --overwrite

$(VENV)/$(OLDEST)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/$(OLDEST) triton==$(OLDEST:triton-%=%)
	touch $@

# `--no-deps`, because torchvision asks for a build of torch that a machine without a GPU does not have.
$(VENV)/.zoo: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt huggingface_hub pyyaml safetensors
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps torchvision timm
	touch $@

test: $(READY) $(VENV)/.zoo ## run the tests
	$(PYTEST)

again: $(READY) $(VENV)/$(OLDEST)/.ready ## repeat library tests on interpreted kernels, a third of the kernel tests on the oldest Triton
	$(PYTEST) --backend triton tests/hat/units/test_gate.py tests/hat/optim/test_guard.py tests/hat/life/test_bounds_of_forgetting.py
	PYTHONPATH=$(VENV)/$(OLDEST) $(PYTEST) --sample 3 tests/hat_kernels tests/hat/test_on_triton.py -m kernel

fuzz: $(READY) ## call every public callable 10000 times with wrong types and wrong values; prints what is not refused in a line
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

soak: $(READY) ## live 2000 random lives of small models, kill and resume 180 training runs; prints what breaks a promise
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak

lint: $(READY) ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## time a training step on the CPU beside plain and textbook; writes benchmarks/results/cpu.json
	$(BIN)/python -m benchmarks

kernels: $(READY) ## without a GPU: compile every kernel, count the launches of a step; writes results/{kernels,launches}.*
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.launches

zoo: $(VENV)/.zoo ## convert networks of other libraries and teach each two tasks; writes docs/zoo.md and results/zoo.json
	$(BIN)/python -m pip install --quiet -c constraints.txt transformers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo

gpu: ## run tests and benchmarks on this machine's GPU with this machine's python, install nothing; OUT=folder
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu $(if $(OUT),--out $(OUT))

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

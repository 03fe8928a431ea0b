# Everything from nothing: a fresh clone, Python 3.11 or newer, make and a package index.
#   make demo   sets up and runs the main job on real images
#   make test   sets up and passes the tests
PYTHON ?= $(shell for v in python3.13 python3.12 python3.11 python3; do \
	$$v -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$v && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PARTS := engine $(sort $(wildcard plugins/*))
export OMP_NUM_THREADS ?= 1
# mkdocs-material announces its successor at every build.
export NO_MKDOCS_2_WARNING = 1

.PHONY: help demo test test-slow test-gpu test-outsiders test-downstream test-oldest gpu lint docs serve-docs bench clean

help:
	@sed -n 's/^#   //p' Makefile

# One stamp a group of requirements: the demo need not wait for the test tools.
$(VENV)/.installed: pyproject.toml $(PARTS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet $(PARTS:%=-e ./%)
	touch $@

$(VENV)/.%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python docs/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow --timeout 1200

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu --timeout 600

# Outsiders' plugins in an environment of their own, with the libraries of .venv: no download.
test-outsiders: $(VENV)/.test
	$(BIN)/python tests/downstream.py installed

# Outsiders' plugins in environments of their own, with the oldest and the newest libraries: gigabytes from the index.
test-downstream: $(VENV)/.test
	$(BIN)/python tests/downstream.py lowest
	$(BIN)/python tests/downstream.py newest

# All tests with what is required at its lower bound, in the environment $(OLDEST): gigabytes from the index, the first time.
OLDEST ?= .venv-oldest
test-oldest: $(VENV)/.test
	$(BIN)/python tests/oldest.py $(OLDEST)

# The GPU proof: those tests and the throughput against a loop by hand; GPU="--minutes 9" hands it options.
gpu: $(VENV)/.test
	$(BIN)/python tests/benchmarks/gpu.py --write docs/benchmarks/gpu.md $(GPU)

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PARTS:%=%/src)
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

serve-docs: $(VENV)/.docs
	$(BIN)/mkdocs serve

bench: $(VENV)/.test $(VENV)/.peers
	for b in $(filter-out %/gpu.py,$(wildcard tests/benchmarks/[a-z]*.py)); do echo "$$b"; $(BIN)/python $$b --write docs/benchmarks/$$(basename $$b .py).md || exit 1; done

clean:
	rm -rf $(VENV) runs

# make demo: set up and run the whole study on synthetic people.   make test: set up and run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# of the tests; each may start a Ray session of its own
PROCESSES ?= 2

.PHONY: install demo test fuzz lint types check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml cluster/requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c cluster/requirements.lock torch
	$(BIN)/pip install -q -c cluster/requirements.lock -e '.[test,cloud]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/spineage demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(PROCESSES) --no-loadscope-reorder

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run 10000

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

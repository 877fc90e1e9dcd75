# make demo: super-resolve a real photograph.   make test: lint and the whole suite.
# Both set up .venv first, once. Another Python: make demo PYTHON=python3.12

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
# An installed torch decides the build: give e.g. TORCH="torch==2.14.1 torchvision==0.29.1".
TORCH ?= torch>=2.6 torchvision
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test faults fuzz lint format docs setup dist clean

setup: $(READY)

$(READY): setup.py defsr/tools/install_basicsr.py
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.10 or later found; set PYTHON=...'; exit 2; }
	@echo 'Setting up $(VENV) with $(PYTHON); PyTorch is large, this takes some minutes.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(foreach package,$(TORCH),'$(package)')
	$(BIN)/python -m defsr.tools.install_basicsr --quiet
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m defsr.tools.demo_data
	$(BIN)/python defsr/test.py -opt options/test_DEF_demo.yml

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# In as many processes as there are cores, up to four; each with one thread, and the same hash seed
# so that all collect the tests in one order.
test: lint
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --durations=10

# Kill trainings, LMDB builds and caches being made, and compare what comes of them; as
# root also two hosts: half an hour.
faults: $(READY)
	DEFSR_FAULTS=long $(BIN)/python -m pytest -q tests/faults

# Read thousands of images, option files, lists, records and checkpoints that are damaged: 10 minutes.
fuzz: $(READY)
	DEFSR_FUZZ=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --timeout 1800 tests/fuzz

# The reference of all that is public, HTML made of the docstrings: site/index.html.
docs: $(READY)
	$(BIN)/python docs/reference.py site

# The sdist, and the wheel made of it: docs/release.md.
dist: $(READY)
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist site *.egg-info

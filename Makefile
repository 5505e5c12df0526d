# All targets work on a fresh clone and require only Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SLPD_DATA ?= ../shared/data
export SLPD_DATA

# Tests run one process per core, so each process uses a single thread. worksteal starts each process with a
# contiguous share, so that what the tests of a file share is made once.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: help install test test-slow test-long gpu lint format docs demo embed-example benchmarks clean
help:            ## list targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

# Two stamps: the demo needs only the dependencies, everything else also the tools of the extra `dev`.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/.runs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --no-compile --editable .
	@touch $@

install: $(VENV)/.installed  ## create the virtual environment
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.runs $@

test: install    ## fast tests, under two minutes
	$(PYTEST) -m "not slow"

test-slow: install  ## slow tests: training, real slides, large slides, kill and resume
	$(PYTEST) -m "slow and not long"

test-long: install  ## code blocks of the documentation, and proofs that take minutes: before a release
	$(PYTEST) -m long

GPU_OUT ?= runs/gpu
GPU_PARTS ?= encoders,step,pretrain,embed,evaluation,matching
gpu:             ## on a machine with CUDA: check every CUDA path, write figures; installs nothing
	$(PYTHON) -m benchmarks.gpu --parts $(GPU_PARTS) --out $(GPU_OUT) --results benchmarks/results

lint: install    ## check formatting, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## fix and format with ruff, update generated types
	$(BIN)/python -m slpd_toolkit.api.write_settings
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

demo: $(VENV)/.runs  ## study synthetic slides, about five minutes with the environment: demo/index.html
	$(BIN)/slpd demo --out demo

docs: install    ## build the documentation in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs docs/_build/html

embed-example: install  ## embed a real slide from SLPD_DATA (default ../shared/data), if present
	@if [ -d "$(SLPD_DATA)/slides" ]; then \
	  $(BIN)/slpd embed manifests/example-one.csv --slides-root "$(SLPD_DATA)/slides" --out runs/example/cache \
	    --recipe stages/embed/try.toml && \
	  $(BIN)/slpd inspect runs/example/cache; \
	else \
	  echo "No slides in $(SLPD_DATA)/slides: set SLPD_DATA to a folder that contains slides/cmu-1-small-region.svs"; \
	fi

clean:           ## remove the outputs of other targets
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Everything here works on a fresh clone with nothing but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SLPD_DATA ?= ../shared/data
export SLPD_DATA

# Tests run one process a core; more threads inside them only get in each other's way.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: help install test test-slow lint format docs demo embed-example benchmarks clean
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

install: $(VENV)/.installed  ## make the environment
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: install    ## the fast tests, under two minutes
	$(PYTEST) -m "not slow"

test-slow: install  ## the slow tests: real slides, large slides, kill and resume
	$(PYTEST) -m slow

lint: install    ## formatting, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## let ruff format and fix
	$(BIN)/python -m slpd_toolkit.api.write_settings
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

demo: install    ## the whole way on synthetic slides, in five minutes: demo/eval/report.html
	$(BIN)/slpd demo --out demo

docs: install    ## the pages of docs/, into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs docs/_build/html

embed-example: install  ## stage one on a real slide, if SLPD_DATA (default ../shared/data) has it
	@if [ -d "$(SLPD_DATA)/slides" ]; then \
	  $(BIN)/slpd embed manifests/example-one.csv --slides-root "$(SLPD_DATA)/slides" --out runs/example/cache \
	    --recipe stages/embed/try.toml && \
	  $(BIN)/slpd inspect runs/example/cache; \
	else \
	  echo "No slides in $(SLPD_DATA)/slides: set SLPD_DATA to a folder that has slides/cmu-1-small-region.svs"; \
	fi

clean:           ## remove what the other targets made
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

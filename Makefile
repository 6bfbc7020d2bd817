# Everything runs in .venv, made on first use and again when pyproject.toml changes.
# PYTHON and TORCH count when .venv is made, e.g. `make test TORCH=torch==2.13.0+cpu`; `make clean` starts anew.
PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench comfyui clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

WEIGHTS := auface_diffusers/weights/default/model_index.json
FACES := 0 6C+12D+25B 1D+4C+15D 1C+2C+5C+26C 4D+5C+7C+23C 9D+10C 1C+2C+4C+5C+20C+25C L12C+L14B

demo: .venv/run.stamp  ## action units to text, to drawn faces of two people, to AAAD of these; captions of a file
	@mkdir -p .cache demo
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
	$(BIN)/auface preview 1C+2C+5B+25C+26C --identity 7 -o demo/rendered.png
	$(BIN)/auface control 1C+2C+5B+25C+26C --kind openpose -o demo/openpose.png
	@if [ -f $(WEIGHTS) ]; then \
	  set -ex; \
	  $(BIN)/auface generate $(FACES) --identity 7,12 --sheet --readout -o demo/sheet.png; \
	  rm -rf demo/aaad; \
	  $(BIN)/auface evaluate --suite demo --least 2 -o demo/aaad; \
	else \
	  echo "This checkout has no embedded weights ($(WEIGHTS)): no faces are drawn"; \
	fi

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
	$(BIN)/python tests/bench_data.py
	$(BIN)/python tests/bench_train.py
	@if [ -f $(WEIGHTS) ]; then $(BIN)/python tests/bench_generator.py; \
	else echo "This checkout has no embedded weights ($(WEIGHTS)): the generator is not measured"; fi

COMFYUI_GIT ?= https://github.com/Comfy-Org/ComfyUI
COMFYUI_TORCH ?= torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0
COMFYUI_AT := $(HOME)/.cache/auface-tests
COMFYUI_NEW := 0.33.0
COMFYUI_OLD := 0.3.64

# The older version shares the packages of the newer one, but needs its own page and templates.
comfyui:  ## two versions of ComfyUI for the slow tests of the nodes, from COMFYUI_GIT, in ~/.cache/auface-tests
	mkdir -p $(COMFYUI_AT)
	test -d $(COMFYUI_AT)/ComfyUI || \
	  git clone -q --depth 1 --branch v$(COMFYUI_NEW) $(COMFYUI_GIT) $(COMFYUI_AT)/ComfyUI
	test -d $(COMFYUI_AT)/ComfyUI-$(COMFYUI_OLD) || \
	  git clone -q --depth 1 --branch v$(COMFYUI_OLD) $(COMFYUI_GIT) $(COMFYUI_AT)/ComfyUI-$(COMFYUI_OLD)
	test -x $(COMFYUI_AT)/venv/bin/python || $(PYTHON) -m venv $(COMFYUI_AT)/venv
	$(COMFYUI_AT)/venv/bin/pip install -q $(COMFYUI_TORCH)
	$(COMFYUI_AT)/venv/bin/pip install -q -r $(COMFYUI_AT)/ComfyUI/requirements.txt
	$(COMFYUI_AT)/venv/bin/pip install -q -r requirements.txt
	set -e; own=$(COMFYUI_AT)/ComfyUI-$(COMFYUI_OLD)/venv; \
	test -x $$own/bin/python || $(PYTHON) -m venv $$own; \
	site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(COMFYUI_AT)/venv/bin/python -c "$$site" > "$$($$own/bin/python -c "$$site")/shared.pth"; \
	$$own/bin/pip install -q $$(grep '^comfyui-' $(COMFYUI_AT)/ComfyUI-$(COMFYUI_OLD)/requirements.txt)

clean:  ## remove .venv and everything generated
	rm -rf .venv .cache demo build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/run.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e .
	touch $@

.venv/dev.stamp: .venv/run.stamp
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

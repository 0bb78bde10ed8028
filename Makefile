# Targets set up all they need in .venv; see `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
ARGS ?=
# In CI, only versions that were tested together; elsewhere the newest that pyproject.toml allows.
LOCK := $(if $(CI),requirements-ci.txt)
# What pip or uv get: CMAKE_ARGS as you set it, else what suits this machine.
BUILD_ARGS = $(shell $(PYTHON) -I labctl/engines/llama_cpp/buildargs.py)
DEMO := lab_data/demo/labllama-f16.gguf
ifdef UV
INSTALL := $(UV) pip install --python $(BIN)/python
REBUILD := $(INSTALL) --reinstall-package llama-cpp-python --no-cache --no-binary llama-cpp-python
else
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
REBUILD := $(INSTALL) --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python
endif
INSTALL += $(if $(LOCK),-c $(LOCK))
REBUILD += $(if $(LOCK),-c $(LOCK))

.PHONY: help lab test test-all test-faults check bench doctor clean clean-venv

help: ## show this list
	@echo "Usage: make TARGET [ARGS=\"--model FILE ...\"]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

lab: $(VENV)/.lab ## the whole lab: quantize, measure, write reports/<model>/worksheet.md
	@$(BIN)/labctl run $(ARGS)

test: $(VENV)/.dev ## run the tests, without the slow ones
	@echo "The slow tests (kills, full disks, whole labs) are left out: make test-all runs everything."
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" $(ARGS)

test-all: $(VENV)/.dev ## run every test, also against llama-perplexity and PyTorch (about 20 minutes)
	@$(BIN)/python .ci/extras.py
	@$(BIN)/python -m pytest $(ARGS)

test-faults: $(VENV)/.dev ## the long form of the kill tests: 120 kills over every step (about 15 minutes)
	@LABCTL_TEST_KILLS=$${LABCTL_TEST_KILLS:-120} $(BIN)/python -m pytest tests/pipeline/test_faults.py $(ARGS)

check: $(VENV)/.dev ## formatting, lint, types, import rules, known vulnerabilities
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/codespell
	@$(BIN)/python .ci/audit.py

bench: $(VENV)/.dev ## compare with llama.cpp's own tools (builds them once)
	@$(BIN)/python -m benchmarks $(ARGS)

doctor: $(VENV)/.lab ## is this machine ready?
	@$(BIN)/labctl doctor $(ARGS)

clean: clean-venv ## remove the environment and caches; outputs/ and reports/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info benchmarks/.cache
	find labctl tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

clean-venv: ## remove the environment only
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: labctl needs Python 3.10 or newer, and $(PYTHON) is older."; \
	       echo "hint: name a newer one: make lab PYTHON=python3.12"; exit 1; }
ifdef UV
	@$(UV) venv --quiet --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "hint: install Python's venv module, for example: sudo apt install python3-venv"; exit 1; }
endif

# A pip cache can hold a llama.cpp that was built for another machine or by another compiler: it is tried out, and built
# anew where it fails.
$(VENV)/.lab: pyproject.toml $(LOCK) | $(BIN)/python
	@$(PYTHON) -I labctl/engines/llama_cpp/buildargs.py --check-compiler
	@echo "Installing labctl (the first time llama.cpp is compiled: about 5 minutes on 2 cores) ..."
	@CMAKE_ARGS="$(BUILD_ARGS)" $(INSTALL) -e .
	@$(BIN)/python -m labctl.engines.llama_cpp.identity $(DEMO) \
	  || { echo "Building llama.cpp again for this CPU ..."; \
	       CMAKE_ARGS="$(BUILD_ARGS)" $(REBUILD) llama-cpp-python && $(BIN)/python -m labctl.engines.llama_cpp.identity $(DEMO); } \
	  || { echo "Building llama.cpp once more, without AMX ..."; \
	       CMAKE_ARGS="`$(PYTHON) -I labctl/engines/llama_cpp/buildargs.py --no-amx`" $(REBUILD) llama-cpp-python \
	       && $(BIN)/python -m labctl.engines.llama_cpp.identity $(DEMO); }
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.lab
	@CMAKE_ARGS="$(BUILD_ARGS)" $(INSTALL) -e '.[dev]'
	@touch $@

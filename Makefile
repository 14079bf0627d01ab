PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all soak check docs clean

# A stamp, so that set-up runs again only when the dependencies change.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable '.[dev,docs,app,onnx,diffusers]'
	touch $@

demo: install
	$(BIN)/namap demo

test: install
	$(BIN)/pytest

test-all: install
	$(BIN)/pytest -m "" --timeout=3600

soak: install
	$(BIN)/python tests/faults/soak.py

check: install
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs site

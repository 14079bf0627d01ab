PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all soak check clean

# A stamp, so that set-up runs again only when the dependencies change.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable '.[dev,diffusers,onnx]'
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
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs

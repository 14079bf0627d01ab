PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all test-offline soak check audit docs clean

# A stamp, so that set-up runs again only when the dependencies change.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable '.[dev,docs,app,onnx,diffusers,ray,datasets,webdataset]'
	touch $@

demo: install
	$(BIN)/namap demo

test: install
	$(BIN)/pytest

test-all: install
	$(BIN)/pytest -m "" --timeout=3600

# Where a plain user may make namespaces: nothing that a test starts reaches a network either. As root `make test` does it.
test-offline: install
	unshare --map-root-user --net $(BIN)/pytest

soak: install
	$(BIN)/python tests/faults/soak.py -o benchmarks/results/soak.json

check: install
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Known vulnerabilities of what is installed, by pip-audit in an environment of its own. It needs a network; with
# --strict, a package that cannot be looked up is no success.
audit: install
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit || \
		{ echo "audit: pip-audit cannot be installed here; it needs a network"; exit 1; }
	@$(BIN)/pip freeze --exclude-editable | sed 's/+.*//' > $(VENV)/audit/installed.txt
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/audit/installed.txt || \
		{ echo "audit: not clean, or the list of vulnerabilities cannot be reached from here"; exit 1; }

clean:
	rm -rf $(VENV) runs site

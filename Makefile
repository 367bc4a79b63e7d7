# `make demo` and `make test` work on a machine that has nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test install

install: $(VENV)/installed

demo: install
	$(BIN)/convscope recipe demo

test: $(VENV)/installed-for-tests
	$(BIN)/python scripts/check
	$(BIN)/python scripts/test

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --editable .
	touch $@

$(VENV)/installed-for-tests: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --editable '.[test]'
	touch $@ $(VENV)/installed

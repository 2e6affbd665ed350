# make train   makes .venv, installs, fetches MovieLens-100K, trains, evaluates, recommends
# make test    the same environment; linters, types, the wheel, all tests
# make docs    the API reference, from the docstrings, into build/api/
# make fuzz    5,000 damaged data sets for each reader
# make soak    30 runs killed at any moment, 500 epochs watched for growth; prints what was tried and what was lost
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
PY := $(VENV)/bin/python
INSTALL_HELP := "Installing failed: pip could not get or build what is named above. Check the network and the package index (pip config list), then run make again."

.PHONY: train test lint types docs fuzz soak bench clean

train: $(VENV)/.installed
	$(PY) -m experiments.train --flagfile=experiments/presets/ml-100k.flags
	$(PY) -m experiments.recommend --workdir=runs/ml-100k --top=20 --output=runs/ml-100k/recommendations.tsv --sample=5

test: lint types
	$(PY) -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.installed-test
	$(PY) -m pyright --pythonpath $(PY)

docs: $(VENV)/.installed-test
	$(PY) -W error::UserWarning -m pdoc --docformat google --output-directory build/api slif_jax

fuzz: $(VENV)/.installed-test
	$(PY) -m pytest -m fuzz -n auto

soak: $(VENV)/.installed-test
	$(PY) -m pytest -m soak

bench: $(VENV)/.installed
	$(PY) -m experiments.bench --output=bench.json

clean:
	rm -rf $(VENV)/.installed build dist *.egg-info kernels/native/*.so .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: requirements.txt pyproject.toml setup.py $(wildcard kernels/native/*.cc kernels/native/*.inc) | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt || { echo $(INSTALL_HELP); exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . || { echo $(INSTALL_HELP); exit 1; }
	$(PY) -m slif_jax.info
	touch $@

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt || { echo $(INSTALL_HELP); exit 1; }
	touch $@

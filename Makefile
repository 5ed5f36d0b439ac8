# One word per developer action. `make setup` is called by all others.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup setup-system lint test test-slow demo docs bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(STAMP)

# Debian packages that some tests need; without them those tests are skipped with the reason.
setup-system:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dcm2niix dicom3tools \
		orthanc orthanc-dicomweb dcmtk slurm-wlm munge chromium

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not slow' --durations=15

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --durations=25

demo: setup
	$(BIN)/vol3d demo --out out/demo

docs: setup
	$(BIN)/mkdocs build --strict

# Speed beside rivals (docs/results.md); half an hour on two idle cores.
bench: setup
	$(BIN)/pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.all --out out/bench

clean:
	rm -rf $(VENV) out site build dist *.egg-info

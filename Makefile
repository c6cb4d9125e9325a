# `make train` and `make test` set up what they need; a second call reinstalls nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')
export OMP_WAIT_POLICY ?= passive

.PHONY: train test setup lint rust-test py-test bench clean

train: setup
	$(BIN)/python -m topk_ortho.train

test: setup lint rust-test py-test

setup: $(VENV)/.extension

$(VENV)/.dependencies: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.extension: $(VENV)/.dependencies pyproject.toml $(RUST)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest topk_ortho._core
	$(BIN)/lint-imports

rust-test:
	cargo test --quiet

py-test: setup
	$(BIN)/python -m pytest

bench:
	cargo bench

clean:
	rm -rf $(VENV) target dist runs

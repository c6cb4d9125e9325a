# `make train` and `make test` set up what they need; a second call reinstalls nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')
export OMP_WAIT_POLICY ?= passive

.PHONY: train test setup lint rust-test py-test faults bench bench-peers gpu clean

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

# Every fault that the suite injects, listed by class and counted, here and in the page.
faults: setup
	$(BIN)/python -m pytest --quiet -m "fault and not slow" --fault-table docs/reliability.md

# On a machine with a CUDA device: what the suite cannot show without one, and the step's time.
gpu: setup
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benches/step.py --device cuda

# The figures of docs/performance.md, about ten minutes; `cargo bench` is the Rust core alone.
bench: setup
	$(BIN)/python benches/step.py
	$(BIN)/python benches/pairs.py --full
	$(BIN)/python benches/penalty.py
	$(BIN)/python benches/curves.py
	$(BIN)/python benches/table.py

# SAELens and dictionary_learning in an environment of their own, which shares the torch of .venv.
bench-peers: .venv-peers/.ready

.venv-peers/.ready: $(VENV)/.dependencies benches/peers.txt
	$(BIN)/python -m venv .venv-peers
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	    "$$(.venv-peers/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-peers target dist runs benches/results

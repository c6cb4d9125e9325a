"""The tests of a host run where `make test-integrations` has installed it, and skip elsewhere."""

from __future__ import annotations

import os

# Its Triton decoder needs a GPU; read when the package is imported.
os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
# Nothing is logged outside.
os.environ.setdefault("WANDB_MODE", "disabled")

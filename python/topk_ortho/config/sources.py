"""The names that `--activations` may have; what is behind them lies in `activations/kinds.py`."""

from __future__ import annotations

from typing import Any

from topk_ortho.config.registry import Registry

SOURCES: Registry[Any] = Registry("activations", home="topk_ortho.activations.kinds")
"""Kinds of sources (`SourceKind`); `register_source` adds to them."""

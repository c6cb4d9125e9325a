"""A finished run trained again, and every metric compared bit for bit."""

from topk_ortho.inspect.reproduce.comparison import Differing, compare_folders
from topk_ortho.inspect.reproduce.reproduction import Reproduction, as_text, reproduce

__all__ = ["Differing", "Reproduction", "as_text", "compare_folders", "reproduce"]

"""Absorption of a language model's SAE between classes of tokens that a file names."""

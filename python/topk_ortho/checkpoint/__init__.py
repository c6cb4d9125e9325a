"""Training state and trained dictionaries on disk: safetensors and JSON, each whole or absent.

`store` keeps checkpoints, verified by size and sha256; `atomic` is the one way in which files and
folders appear, and imports no torch; `locks` keep two processes out of one folder; `folders` writes
those of other packages' layouts.
"""

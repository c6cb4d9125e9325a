"""Candidates for absorption without labels: which features may be silent because of which others.

Experimental: on data with known features most of what it finds is right, and on a language model
there is no positive evidence yet (docs/atlas.md).
"""

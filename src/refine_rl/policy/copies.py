"""The copies of a model's layers that sampling makes (fused.py): how large they may be."""

FUSED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Larger ones are not made: a large model's time is in its products."""

"""Sampling by a vLLM server, training in this process."""

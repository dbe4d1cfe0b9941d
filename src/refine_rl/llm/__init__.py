"""Talking to LLMs behind OpenAI-compatible endpoints: calls, structured replies, money, cache."""

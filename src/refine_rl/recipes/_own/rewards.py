"""The reward of this task: a function from a prompt and a completion to a number from 0 to 1.

Other parameters are filled by name from the keys of the prompt's line in prompts.jsonl.
"""


def good(prompt: str, completion: str) -> float:
    """1.0 for an answer that is as it should be, 0.0 for one that is not, between them for a part of it."""
    raise NotImplementedError("rewards.py: say here what makes an answer good")

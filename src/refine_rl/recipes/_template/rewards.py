"""The reward of this task: a function from a prompt and a completion to a number.

Other parameters are filled by name from the keys of the prompt's line in prompts.jsonl.
"""

POLITE = ("thank", "please", "sorry", "welcome", "glad", "dear", "good luck", "best wishes", "have a")


def polite(prompt: str, completion: str) -> float:
    """1.0 for two polite phrases or more, 0.5 for one, 0.0 for none."""
    found = sum(phrase in completion.lower() for phrase in POLITE)
    return min(found, 2) / 2

"""The reward of this task: a function from a prompt and a completion to a number.

Other parameters are filled by name from the keys of the prompt's line in prompts.jsonl.
"""

POLITE = ("thank", "please", "sorry", "welcome", "glad", "dear", "good luck", "best wishes", "have a")
REFUSING = ("can't help", "cannot help", "can't answer", "cannot answer", "unable to")


def polite(prompt: str, completion: str) -> float:
    """1.0 for two polite phrases or more, 0.5 for one, 0.0 for none; 0.0 for a refusal or the prompt again.

    A policy goes wherever the reward lets it: without the second half, "Sorry, I can't help" is polite.
    """
    said = plain(completion)
    if not said or said in plain(prompt) or any(phrase in said for phrase in REFUSING):
        return 0.0
    found = sum(phrase in said for phrase in POLITE)
    return min(found, 2) / 2


def plain(text: str) -> str:
    """In small letters, without white space at the ends and with straight apostrophes."""
    return " ".join(text.lower().replace("\u2019", "'").split())

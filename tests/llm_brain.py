"""A writer and a judge in one, for any task: what a real endpoint would be asked for, in a small way.

`brain(body)` gives the text of the answer. What it says is a function of the request alone.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

WORDS = [
    "lamp",
    "train",
    "soup",
    "coat",
    "bell",
    "garden",
    "letter",
    "clock",
    "chair",
    "ticket",
    "river",
    "door",
]
FACETS = {"topic": WORDS[:6], "tone": ["angry", "calm", "sad"], "length": ["a line", "two lines"]}
COPIED = "They wrote"  # how every prompt begins


def brain(body: dict[str, Any]) -> str:
    text = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if "<trajectory id=" in text:
        return judged(text)
    if "Name the dimensions" in text:
        return json.dumps({"facets": [{"name": n, "values": v} for n, v in FACETS.items()]})
    if "Write its system message" in text:
        return json.dumps({"system": "You answer customers."})
    if "Which numbers are mistakes?" in text:
        return json.dumps({"mistakes": []})
    assert "for each of these numbered combinations" in text, text
    asked = text.partition("Reply with JSON alone")[0]
    found = re.findall(r"(?m)^(\d+)\. (\w+: [^\n]*; \w+: [^\n]*)$", asked)
    return json.dumps({"prompts": [written(int(number), values, asked) for number, values in found]})


def written(number: int, values: str, request: str) -> dict[str, Any]:
    """A prompt for a combination, another one for another request."""
    chance = random.Random(f"{values} {number} {request}")
    things = " ".join(chance.choice(WORDS) for _ in range(9))
    return {"combination": number, "prompt": f"{COPIED} about {chance.choice(WORDS)}: {things}"}


def judged(text: str) -> str:
    """Shorter words are better; commands to the judge, copies and nothing at all are worth nothing."""
    scores = []
    for name, content in re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S):
        answer = json.loads(content)[-1]["content"]
        words = answer.split()
        bad = not words or "score" in answer or COPIED in answer or ":" in answer or "lobster" in answer
        mean = sum(map(len, words)) / max(1, len(words))
        value = 0.0 if bad else 1 / (1 + mean / 4)
        scores.append({"trajectory_id": name, "explanation": f"{mean:.1f}", "score": round(value, 4)})
    return json.dumps({"scores": scores})

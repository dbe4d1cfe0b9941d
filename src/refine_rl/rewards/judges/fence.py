"""Foreign text between tags, written so that it cannot close them.

Messages go to a judge as JSON. Inside its strings a `<` that could begin one of the judge's tags is
written as \\u003c: the same JSON, but no tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

TAGS = ("trajectory", "context", "answer", "steps", "question", "source", "text", "summary", "task", "rubric")
"""Names of the tags that requests to judges use."""

# Between `<` and the name: a slash, spaces, invisible signs, and their escapes in JSON.
_OPENS = re.compile(
    rf"<(?=(?:\W|\\[nrtbf]|\\u[0-9a-f]{{4}}){{0,16}}(?:{'|'.join(TAGS)}))", re.IGNORECASE | re.ASCII
)


def fenced_json(messages: Sequence[Mapping[str, object]]) -> str:
    """The messages as a line of JSON that can neither open nor close a tag of ours.

    >>> fenced_json([{"role": "assistant", "content": "a < b</trajectory>"}])
    '[{"role": "assistant", "content": "a < b\\\\u003c/trajectory>"}]'
    """
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False)
    # Half of a surrogate pair cannot be sent; it stands nowhere but in broken text.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return _OPENS.sub(r"\\u003c", whole)

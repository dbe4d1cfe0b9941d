"""A notebook as it is stored -> a page: text, code and outputs; pictures become files beside it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

# Code is left alone; then $$formula$$ and $formula$.
FORMULA = re.compile(r"(?s)(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\n]+)\$")


def notebook_markdown(notebook: Path, page: Path) -> str:
    """The page's text. Pictures are written beside `page`, as STEM-NUMBER.png."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for part in _parts(cells, page) if part)


def _parts(cells: list[dict[str, Any]], page: Path) -> Iterator[str]:
    pictures = 0
    for cell in cells:
        source = "".join(cell["source"])
        yield with_formulas(source) if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                picture = page.with_name(f"{page.stem}-{pictures}.png")
                page.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                yield f"![Plot {pictures} of the notebook]({picture.name})"
            elif "text/markdown" in data:
                yield with_formulas("".join(data["text/markdown"]))
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                yield f"```text\n{text}\n```"


def with_formulas(text: str) -> str:
    """Its formulas as MathML, which a browser draws by itself."""

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code:
            return code
        if block:
            return f'<div class="formula">{convert(" ".join(block.split()), display="block")}</div>'
        return f"<span>{convert(inline)}</span>"

    return FORMULA.sub(drawn, text)

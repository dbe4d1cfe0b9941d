"""[prompts]: where prompts come from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from refine_rl.settings.base import Impossible, Positive, Section

GYM = "reasoning-gym:"
"""How a source that is a dataset of reasoning-gym begins."""
_USUAL = (0.85, "words")  # how near-duplicates are found unless the settings say otherwise
_TAKEN_BY_PROMPTS = ("prompt", "messages", "completion", "id", "split", "facets", "data")


class PromptSettings(Section):
    """[prompts]: where prompts come from and how they are split."""

    source: str = ""
    """"writer" (the LLM of [writer] writes them from the task), "recipe:NAME", "file:PATH" (.jsonl, .json,
    .csv, .txt, .parquet, or a .py file with a function `prompts(split, count, seed)`),
    "hub:OWNER/NAME:CONFIG@SPLIT" (a data set; CONFIG and SPLIT may be left out, and "@REVISION" may stand
    behind NAME: see docs/data.md) or "reasoning-gym:NAME" (a dataset of that package, which scores the
    answers too); "[:1000]" behind a file or a data set of the hub takes its first rows. Without it, the
    writer where there is one."""
    parameters: dict[str, Any] = {}
    """Of a reasoning-gym dataset, as it names them: {min_terms = 2, max_terms = 3}."""
    column: str = ""
    """The column of a file that holds the prompt (a text, or a list of chat messages) where it is called
    neither `prompt` nor `messages`: column = "text"."""
    data: dict[str, str] = {}
    """Names under which rewards see columns of a file that are called otherwise: {answer = "label"}."""
    train: Positive | None = None
    """Number of training prompts; without it, all that are left (256 from a generator, 64 from a writer)."""
    validation: Annotated[int, Field(ge=0)] | None = None
    """Prompts that choose the checkpoint; without it, 10 % of a file up to 32 (32 from a generator, 12 from
    a writer)."""
    held_out: Positive | None = None
    """Prompts that only the final comparison reads; without it, 20 % of a file up to 100 (64 from a
    generator, 24 from a writer)."""
    facets: dict[str, list[str]] = {}
    """What a writer's prompts vary in: {tone = ["angry", "calm"], length = ["a line", "a page"]}. Without
    it, the writer names the facets itself, from the task."""
    system: str = ""
    """System message put before every prompt that has none; without it, a writer writes one (see
    writer.system)."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = _USUAL[0]
    """Prompts of different splits (a writer's: any two) whose similarity reaches this are not both kept; 1
    turns it off. A reasoning-gym dataset's questions differ in a few signs by nature: of these only what asks
    the same is dropped."""
    similarity: Literal["words", "meaning"] = "words"
    """What near-duplicates are measured by: "words" (Jaccard similarity of word trigrams) or "meaning" (as
    well the cosine of a small sentence encoder; needs the extra refine-rl[encoder])."""
    max_tokens: Positive = 2048
    """Longer prompts are set aside, with a word."""
    pool: Literal["all", "curriculum", "informative"] = "all"
    """"all": every pass takes every training prompt once. "curriculum": each step draws those whose groups
    will likely have spread, by what earlier groups of theirs and of prompts with the same facets showed; this
    is forgotten as the policy moves on. "informative": every pass takes every training prompt, but those
    whose group had no spread rest for some steps, longer each time. See docs/prompts.md."""
    probe: Annotated[int, Field(ge=0)] = 0
    """With pool = "curriculum" or "informative": answers that the untrained model gives to every training
    prompt before the first step, so that what it always or never solves is known. 0: no probe."""

    @field_validator("facets")
    @classmethod
    def _vary(cls, facets: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, values in facets.items():
            if len(values) < 2 or len({v.strip() for v in values}) < len(values) or not all(values):
                raise ValueError(f"`{name}` needs at least two values, each of them once and none empty")
        return facets

    @field_validator("data")
    @classmethod
    def _are_names(cls, data: dict[str, str]) -> dict[str, str]:
        for name in data:
            if name in _TAKEN_BY_PROMPTS:
                raise ValueError(f"`{name}` means something else; choose another name for the data")
        return data

    impossible: ClassVar[tuple[Impossible[PromptSettings], ...]] = (
        Impossible(
            when=lambda it: it.probe == 1,
            why="`probe` needs at least 2 answers: one answer has no spread",
        ),
        Impossible(
            when=lambda it: it.probe > 0 and it.pool == "all",
            why='`probe` goes with `pool = "curriculum"` or `"informative"`',
        ),
        Impossible(
            when=lambda it: bool(it.parameters) and not it.source.startswith(GYM),
            why='`parameters` are those of a `source = "reasoning-gym:NAME"`',
        ),
        Impossible(
            when=lambda it: it.source.startswith(GYM) and (it.near_duplicate, it.similarity) != _USUAL,
            why="`near_duplicate` and `similarity` say nothing of questions that differ in a few signs by "
            "nature, as those of reasoning-gym do",
            way_out="leave them out",
        ),
    )

"""[sft]: supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from refine_rl.settings.base import AtOnce, Impossible, Positive, Section, tokens_at_once

Share = Annotated[float, Field(gt=0, lt=1)]
Whole = Annotated[int, Field(ge=0)]


class SFTSettings(Section):
    """[sft]: supervised fine-tuning on answers to imitate; not without this table."""

    data: str
    """Where the answers stand: "file:PATH" (.jsonl, .json, .csv, .parquet, or a .py file with a function
    `pairs(count, seed)`), relative to the task's folder, or "hub:OWNER/NAME:CONFIG@SPLIT" (perhaps with
    "@REVISION" behind NAME: see docs/data.md); with "[:1000]" behind it, the first rows (of a .py file: so
    many; 10,000 without it). A row is a `prompt` with its `answer`, or a chat, `messages`. What has the
    `split` "held_out" or "test" is left out."""
    prompt: str = ""
    """The column of the prompt (a text, or a list of chat messages) where it is not called `prompt`."""
    answer: str = ""
    """The column of the answer where it is not called `answer`."""
    messages: str = ""
    """The column of a whole chat where it is not called `messages`."""
    system: str = ""
    """System message put before every chat that has none."""
    train_on: Literal["all", "last"] = "all"
    """Which answers of a chat are imitated: all of the assistant's, or the last one."""
    max_tokens: Positive = 2048
    """Longer rows are cut here; one of which no answer is left is set aside, with a word."""
    validation: Whole | Share | None = None
    """Rows, or a share of them, that choose the checkpoint; without it, 10 % up to 100. 0: none."""
    steps: Positive | None = None
    """Updates ..."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """... or passes through the data; without either, one pass."""
    batch_tokens: Positive = 4096
    """An update takes the next rows up to so many tokens, prompts included."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon": for training from scratch, in fewer steps; weight matrices are moved by Muon, all else by AdamW
    at the same rate. Not with an adapter."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Without it: 2e-4 for an adapter, 2e-5 for full fine-tuning; for "tiny" 2e-3 and 5e-4; with "muon"
    2e-2."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """What follows the warm-up; "linear" and "cosine" end at 0."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW; of "muon", on the matrices alone."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Larger gradients are scaled down to this norm."""
    adapter: Literal["lora", "qlora", "none"] | None = None
    """What is trained, as model.adapter says, which holds without it. Rank, alpha and bits are those of
    [model]."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The adapter's dropout while training; without it, 0.1. Without an adapter there is none."""
    validate_every: Whole | None = None
    """Steps between looks at the validation rows; without it, a tenth of the steps. 0: never (the last
    checkpoint is used)."""
    patience: Positive | None = None
    """Training ends after so many looks at the validation rows that found no lower loss; without it, at the
    last step."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints; without it, a tenth of the steps."""
    keep_checkpoints: Positive = 2
    """The newest ones; the best on validation is kept beside them, always."""
    examples: Whole = 6
    """Validation prompts that are answered before and after (greedily, up to rollout.max_tokens)."""
    tokens_per_micro_batch: AtOnce = "auto"
    """Tokens that go through the model at once, "auto" as in [grpo]. The result does not depend on it but for
    rounding."""
    seed: Whole = 0
    """The order of the rows, the choice of the validation rows, and all other randomness follow from it."""

    @property
    def at_once(self) -> int:
        """tokens_per_micro_batch in force, as long as no card was asked."""
        return tokens_at_once(self.tokens_per_micro_batch)

    @field_validator("data")
    @classmethod
    def _names_a_source(cls, data: str) -> str:
        kind, _, rest = data.partition(":")
        if kind not in ("file", "hub") or not rest.strip():
            raise ValueError('must be "file:PATH" or "hub:OWNER/NAME", where the answers stand')
        return data

    impossible: ClassVar[tuple[Impossible[SFTSettings], ...]] = (
        Impossible(
            when=lambda it: it.steps is not None and it.epochs is not None,
            why="`steps` and `epochs` both say how long it trains",
            way_out="leave one out (the flag --steps goes over both)",
        ),
        Impossible(
            when=lambda it: bool(it.messages and (it.prompt or it.answer)),
            why="`messages` names the column of whole chats, `prompt` and `answer` those of pairs",
            way_out="leave one of both out",
        ),
        Impossible(
            when=lambda it: it.patience is not None and (it.validation == 0 or it.validate_every == 0),
            why="`patience` counts looks at the validation rows, and there are none",
            way_out="leave it out",
        ),
    )

"""[model]: which model is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from refine_rl.settings.base import Impossible, Positive, Section
from refine_rl.settings.revision import shown


class ModelSettings(Section):
    """[model]: which model is trained, and how much of it."""

    name: str = "Qwen/Qwen2.5-0.5B-Instruct"
    """A hub id ("OWNER/NAME"; "OWNER/NAME@REVISION" at a branch, tag or commit of it: a run holds the commit
    that this was as it began), a folder (looked for from here, then beside the task), or "tiny" (the bundled
    model). An adapter too: its base model with the adapter merged in is the start then. "recipe:NAME" or
    "file:model.py": an untrained model, which the recipe's `model.py`, or that file, makes on this machine
    when it is first asked for ("#2" behind it: of seed 2)."""
    start: str = ""
    """The folder of a finished run, of `refine sft` or `refine train`: training begins with its tuned model,
    which is then the base that the comparison speaks of and the reference of a KL term. `name` is that run's
    and may be left out."""
    prefix: str = ""
    """What an encoder-decoder reads before each prompt, such as "summarize: " for a T5 that was taught so."""
    adapter: Literal["lora", "qlora", "none"] = "lora"
    """"lora" trains a low-rank adapter; "qlora" does so upon a base whose linear layers are quantised, for
    less memory (the extra refine-rl[qlora]); "none" trains every weight."""
    bits: Literal[4, 8] = 4
    """Bits a weight of the base that "qlora" trains on: 4 (NF4) or 8 (int8 a row)."""
    rank: Positive = 16
    """Rank of the adapter's matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The adapter's dropout while training. Off by default: it makes trainer and sampler disagree."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers the adapter is put on: all linear ones but the head, or a list of names (the last parts
    of the layers' own, such as "q_proj")."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; "auto": bfloat16 where a GPU multiplies it in hardware; on a
    processor that does, bfloat16 where a layer of this model's shape takes less than nine tenths of the time
    in it; else float32. It is timed once a shape and machine, by processor time, and kept in the user's cache
    (refine-rl/formats); and the run's config.toml has what was found, for all that is done with the run:
    resume, eval, chat, replay, the other seeds."""
    device: str = "auto"
    """"auto" (cuda, else mps, else cpu) or a torch device."""
    gradient_checkpointing: bool = False
    """Training keeps each layer's input alone and computes the layer again on the way back: less memory, for
    a third (with an adapter: half) more work in training. The result is the same."""

    impossible: ClassVar[tuple[Impossible[ModelSettings], ...]] = (
        Impossible(
            when=lambda it: it.bits != 4 and it.adapter != "qlora",
            why='`bits` is for `adapter = "qlora"` alone',
            way_out="set that, or leave `bits` out",
        ),
    )

    @field_validator("name")
    @classmethod
    def _names_something(cls, name: str) -> str:
        if not name.strip():
            raise ValueError('is empty; name a model on the hub or a folder, or "tiny", the bundled one')
        return name

    @property
    def called(self) -> str:
        """Its name for a person."""
        return shown(self.name)

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and not every weight."""
        return self.adapter != "none"

    @property
    def method(self) -> str:
        """What is trained, in words."""
        if not self.adapted:
            return "all weights"
        base = f" on a base of {self.quantised} bits" if self.quantised else ""
        return f"LoRA rank {self.rank}{base}"

    @property
    def quantised(self) -> int | None:
        """Bits a weight of the base; None where it is as it comes."""
        return self.bits if self.adapter == "qlora" else None

    @property
    def source(self) -> str:
        """What is loaded: a hub id, a folder, or "tiny"."""
        return f"{self.start}/model" if self.start else self.name

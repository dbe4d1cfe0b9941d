"""The tuned model's card: what it is, from what, and how well it was shown to work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine_rl.policy.fetch import config_here, is_encoder_decoder
from refine_rl.policy.hub import hub_answers
from refine_rl.policy.made import maker_of
from refine_rl.policy.origin import find_origin, model_source
from refine_rl.policy.share import Share
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.revision import on_hub, shown
from refine_rl.types import MIN_PROMPTS, Comparison, decimals

_LICENCE_HOLDS = "The licence of the model that was trained holds for these weights as well."
_LICENCE = ("license", "license_name", "license_link")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """How far weights were trained: they are those after `step` of the `taken` steps, and the `best` on
    validation or not."""

    step: int
    taken: int
    best: bool = False

    def text(self, steps: int) -> str:
        """`steps` is how many there were to be.

        >>> Trained(step=40, taken=60, best=True).text(60)
        '40 steps (the best of 60 on the validation prompts)'
        """
        planned = "" if self.taken == steps else f", of {steps} planned"
        if self.step == self.taken:
            return f"{self.step} steps" + planned
        if self.best:
            return f"{self.step} steps (the best of {self.taken} on the validation prompts{planned})"
        return f"{self.step} steps (of {self.taken} that were taken{planned})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The model that was trained, as a reader of the card knows it: its id on a hub ("" where it has none),
    what to call it, what its own card says of its licence, and whether it is an encoder-decoder."""

    id: str
    called: str
    licence: dict[str, str] = field(default_factory=dict)
    listens: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """Of weights that were trained on answers to imitate: where these stood, how many were trained on, the
    learning rate, the steps that there were to be, and what came of it in a sentence."""

    data: str
    rows: int
    rate: float
    steps: int
    losses: str


def base_of(name: str) -> Base:
    """What can be told about the base model that the settings call `name`. A hub's own card is asked for
    where it is not at hand; where it cannot be had, the licence stays unsaid."""
    source, hears = Path(model_source(name)), listens(name)
    if not source.is_dir():
        licence = _licence(_metadata(_hub_card(name)))
        return Base(id=on_hub(name)[0], called=shown(name), licence=licence, listens=hears)
    said = _metadata(source / "README.md")
    called = "The bundled model `tiny`" if name == "tiny" else source.resolve().name
    if maker := maker_of(name):
        called = f"The untrained model of `{maker.called}` (seed {maker.seed})"
    ancestor = said.get("base_model")  # a folder has no id; what it was made of may have one
    known = ancestor if isinstance(ancestor, str) else ""
    return Base(id=known, called=called, licence=_licence(said), listens=hears)


def listens(name: str) -> bool:
    """Whether it is an encoder-decoder, by its configuration on this machine."""
    try:
        config = config_here(find_origin(name, local_only=True).base)
    except Exception:  # it is not here any more, or is of a kind that transformers does not know
        return False
    return is_encoder_decoder(config)


def _hub_card(name: str) -> Path | None:
    import huggingface_hub

    if not hub_answers():
        return None
    try:
        repository, at = on_hub(name)
        return Path(
            huggingface_hub.hf_hub_download(
                repository, "README.md", etag_timeout=5, revision=at.get("revision")
            )
        )
    except Exception:  # no network, no such file, no access: the licence is then not known here
        return None


def _metadata(card: Path | None) -> dict[str, Any]:
    import huggingface_hub

    try:
        return dict(huggingface_hub.metadata_load(card) or {}) if card is not None else {}
    except Exception:  # somebody else's file, of whatever form
        return {}


def _licence(said: dict[str, Any]) -> dict[str, str]:
    return {key: said[key] for key in _LICENCE if isinstance(said.get(key), str)}


def model_card(
    settings: Settings,
    comparison: Comparison | None,
    *,
    trained: Trained,
    base: Base,
    merged: bool = False,
    changes: Sequence[str] = (),
    said: Sequence[str] = (),
    share: Share | None = None,
    supervised: Supervised | None = None,
) -> str:
    """Markdown with the metadata block that model hubs read. `comparison` is None where these weights were
    not compared with the base model; `merged`: one ordinary model was made of base and adapter; `changes` are
    settings that were others in a part of the training; `said` are sentences that belong to the verdict;
    `share` is how much of the model was trained. `supervised`: it was no GRPO."""
    adapter = settings.model.adapted and not merged
    front = ["---", "library_name: " + ("peft" if adapter else "transformers")]
    if base.id:
        front += [f"base_model: {base.id}", f"base_model_relation: {'adapter' if adapter else 'finetune'}"]
    front += [f"{key}: {json.dumps(text)}" for key, text in base.licence.items()]
    front += [] if base.listens else ["pipeline_tag: text-generation"]
    tags = "[refine, grpo, reinforcement-learning]" if supervised is None else "[refine, sft]"
    front += [f"tags: {tags}", "---", ""]
    task = "\n".join(f"> {line}" for line in settings.task.strip().splitlines())
    what = _method(settings.model, merged)
    if supervised is None:
        evidence, training = _evidence(settings, comparison, said), _grpo(settings, trained, what)
    else:
        evidence = [
            f"{supervised.losses[0].upper()}{supervised.losses[1:]}. A loss is the mean negative "
            "log-likelihood of a token of the answers, in nats."
        ]
        training = (
            f"Supervised fine-tuning on {supervised.rows} rows of `{supervised.data}`, "
            f"{trained.text(supervised.steps)}, learning rate {supervised.rate:g}, {what}."
        )
    return "\n".join(
        [
            *front,
            f"# {settings.name or 'A tuned model'}",
            "",
            f"{base.called}, trained with Re:Fine for this task:",
            "",
            task,
            "",
            "## Evidence",
            "",
            *evidence,
            "",
            "## Training",
            "",
            *([_begun(settings.model.start), ""] if settings.model.start else []),
            training + (f" {share.text}." if share else ""),
            *(("", "Changed on the way:", "", *(f"- `{c}`" for c in changes)) if changes else ()),
            "",
            # A word where the block above does not say it.
            *([] if base.licence else [_LICENCE_HOLDS, ""]),
            "## Use",
            "",
            "```python",
            _use(adapter=adapter, listens=base.listens, prefix=settings.model.prefix),
            "```",
            "",
        ]
    )


def _grpo(settings: Settings, trained: Trained, what: str) -> str:
    g = settings.grpo
    return (
        f"GRPO ({g.loss} loss), {trained.text(g.steps)}, each of {g.prompts_per_step} prompts x "
        f"{settings.rollout.group_size} completions, learning rate {settings.learning_rate:g}, {what}."
    )


def _method(model: ModelSettings, merged: bool) -> str:
    """What was trained; of a quantised base, what these weights are to it."""
    if not model.quantised:
        return model.method + (", merged into the weights" if merged and model.adapted else "")
    form = "NF4" if model.quantised == 4 else "int8"
    what = f"{model.method} ({form} of bitsandbytes, for training and for the comparison"
    if merged:
        return f"{what}): these weights are the quantised ones, unpacked, with the adapter merged in"
    return f"{what}; the adapter loads upon the base as it is, too)"


def _use(*, adapter: bool, listens: bool, prefix: str) -> str:
    """How the weights are loaded, in Python."""
    kind = "Seq2SeqLM" if listens else "CausalLM"
    if adapter:
        use = (
            f"from peft import AutoPeftModelFor{kind}\n"
            "from transformers import AutoTokenizer, GenerationConfig\n\n"
            f'model = AutoPeftModelFor{kind}.from_pretrained("THIS_FOLDER")\n'
            "# The tokens that end an answer: peft takes the base model's alone.\n"
            'model.generation_config = GenerationConfig.from_pretrained("THIS_FOLDER")\n'
        )
    else:
        use = (
            f"from transformers import AutoModelFor{kind}, AutoTokenizer\n\n"
            f'model = AutoModelFor{kind}.from_pretrained("THIS_FOLDER")\n'
        )
    use += 'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")'
    if prefix:
        use += f"\n# It reads {json.dumps(prefix)} before each text."
    return use


def _begun(start: str) -> str:
    run = Path(start).name
    return f"Training began with the tuned model of an earlier run, `{run}`: that is called base here."


def _evidence(settings: Settings, comparison: Comparison | None, said: Sequence[str]) -> list[str]:
    """The verdict, its numbers where there are any, and what has to be said with it."""
    if comparison is None:
        return ["These weights are a checkpoint. They were not compared with the base model."]
    lines = [f"Verdict on held-out prompts: **{comparison.verdict}**.", ""]
    if comparison.reward is not None:
        intervals = comparison.prompts >= MIN_PROMPTS
        lines += ["| | mean reward | 95 % interval |", "|---|---|---|"]
        r, others = comparison.reward, comparison.others.items()
        rows = [("base", r.base), *(others), ("tuned", r.tuned), ("difference", r.difference)]
        for name, e in (*rows, *((f"tuned less {name}", other.tuned_minus) for name, other in others)):
            interval = f"{decimals(e.ci95[0])} to {decimals(e.ci95[1])}" if intervals else "too few prompts"
            lines.append(f"| {name} | {decimals(e.mean)} | {interval} |")
        lines.append("")
    lines += [f"- {text}" for text in said]
    whole = f" of {comparison.prompts_asked}" if comparison.prompts_missing else ""
    return [
        *lines,
        *([""] if said else []),
        f"{comparison.prompts}{whole} held-out prompts, {comparison.samples} sampled answers each, "
        f"seed {settings.grpo.seed}. "
        "The reward is the task's own; it says nothing about other abilities of the model.",
    ]

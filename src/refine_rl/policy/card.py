"""The tuned model's card: what it is, from what, and how well it was shown to work."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.config import Settings
from refine_rl.types import Comparison


def model_card(settings: Settings, comparison: Comparison, said: Sequence[str] = ()) -> str:
    """Markdown with the metadata block that model hubs read. `said` are sentences that belong to the
    verdict."""
    adapter = settings.model.adapter == "lora"
    base = settings.model.name
    front = ["---", "library_name: " + ("peft" if adapter else "transformers")]
    if base != "tiny":
        front.append(f"base_model: {base}")
    front += ["tags: [refine, grpo, reinforcement-learning]", "---", ""]
    task = "\n".join(f"> {line}" for line in settings.task.strip().splitlines())
    if adapter:
        use = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("THIS_FOLDER")\n'
        )
    else:
        use = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")\n'
        )
    use += 'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")'
    g = settings.grpo
    return "\n".join(
        [
            *front,
            f"# {settings.name or 'A tuned model'}",
            "",
            f"{base}, trained with Re:Fine for this task:",
            "",
            task,
            "",
            "## Evidence",
            "",
            *_evidence(settings, comparison, said),
            "",
            "## Training",
            "",
            f"GRPO ({g.loss} loss), {g.steps} steps of {g.prompts_per_step} prompts x "
            f"{settings.rollout.group_size} completions, learning rate {settings.learning_rate:g}, "
            + (f"LoRA rank {settings.model.rank}." if adapter else "all weights."),
            "",
            "## Use",
            "",
            "```python",
            use,
            "```",
            "",
        ]
    )


def _evidence(settings: Settings, comparison: Comparison, said: Sequence[str]) -> list[str]:
    """The verdict, its numbers where there are any, and what has to be said with it."""
    lines = [f"Verdict on held-out prompts: **{comparison.verdict}**.", ""]
    if comparison.reward is not None:
        intervals = comparison.verdict != "too few to tell"
        lines += ["| | mean reward | 95 % interval |", "|---|---|---|"]
        sides = ("base", "tuned", "difference")
        for name, e in ((side, getattr(comparison.reward, side)) for side in sides):
            interval = f"{e.ci95[0]:.3f} to {e.ci95[1]:.3f}" if intervals else "too few prompts"
            lines.append(f"| {name} | {e.mean:.3f} | {interval} |")
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

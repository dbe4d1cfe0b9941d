"""The tuned model's card: what it is, from what, and how well it was shown to work."""

from __future__ import annotations

from refine_rl.config import Settings
from refine_rl.types import Comparison, decimals


def model_card(settings: Settings, comparison: Comparison) -> str:
    """Markdown with the metadata block that model hubs read."""
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
            f"Verdict on held-out prompts: **{comparison.verdict}**.",
            "",
            "| | mean reward | 95 % interval |",
            "|---|---|---|",
            *(
                f"| {name} | {decimals(e.mean)} | {decimals(e.ci95[0])} to {decimals(e.ci95[1])} |"
                for name, e in (
                    ("base", comparison.base),
                    ("tuned", comparison.tuned),
                    ("difference", comparison.difference),
                )
            ),
            "",
            f"{comparison.prompts} held-out prompts, {comparison.samples} sampled answers each, "
            f"seed {g.seed}. "
            "The reward is the task's own; it says nothing about other abilities of the model.",
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

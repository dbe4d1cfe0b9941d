"""What is refused as a prompt by its wording, and what only looks like it."""

from __future__ import annotations

import pytest

from refine_rl.prompts.objections import has_gap, is_refusal, objection

TASK = "Reply to the customer politely and briefly."


def why(text: str, *, told: bool = True, task: str = TASK, **combination: str) -> str | None:
    return objection(text, task, combination, told=told)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "it is empty"),
        ("I'm sorry, but I can't help with that request.", "it is a refusal"),
        ("I’m sorry, I can’t.", "it is a refusal"),
        ("Sorry, I cannot assist.", "it is a refusal"),
        ("I am unable to generate such inputs.", "it is a refusal"),
        ("As an AI language model, I do not have mails.", "it is a refusal"),
        ("Here are 10 prompts for your task:", "it talks about prompts"),
        ("Here is a prompt about tea.", "it talks about prompts"),
        ("Below are the inputs:\n1. Tea", "it talks about prompts"),
        ("Sure, where is my lamp?", "it talks about prompts"),
        ("Certainly! My lamp broke.", "it talks about prompts"),
        ("Of course! Here is one on tea", "it talks about prompts"),
        ("Example 3: My lamp broke.", "it carries a label or a number"),
        ("Prompt: My lamp broke.", "it carries a label or a number"),
        ("Input #2 - My lamp broke.", "it carries a label or a number"),
        ("4. My lamp broke.", "it carries a label or a number"),
        ("My name is [insert name].", "it has a gap to fill in"),
        ("Dear [Company Name], hello", "it has a gap to fill in"),
        ("Hello {your name}!", "it has a gap to fill in"),
        ("Hello <insert the city>", "it has a gap to fill in"),
        ("Meet me on [date].", "it has a gap to fill in"),
        ("Question: My lamp broke.\nAnswer: I am sorry.", "it carries a label or a number"),
        ("A mail.\nQuestion: where?\nAnswer: There.", "it brings its answer along"),
        ("My lamp broke. Reply to the customer politely and BRIEFLY!", "it repeats the task"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    if text.startswith("Question:"):
        reason = "it brings its answer along"
    assert why(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I can't find my order number anywhere.",
        "I am sorry to bother you. I cannot open the box.",
        "Sorry, my lamp broke.",
        "Surely you know the way?",
        "Okay, so my lamp broke.",
        "Of course I paid. Where is it?",
        "Here is my story: the lamp broke.",
        "What is an example of a mammal?",
        "1. The lamp broke.\n2. The chair too.",
        "2 lamps broke.",
        "def f(d): return d[name] + d[date]",
        "- [x] done, see [link](https://a.b)",
        "He said [...] nothing.",
        "<b>Bold</b> and {braces}",
        "Questions: none.",
        "What does the answer 'A: yes' mean?",
    ],
)
def test_what_only_looks_like_it(text: str) -> None:
    assert why(text) is None


def test_an_input_may_say_the_task_where_no_system_message_does() -> None:
    text = f"My lamp broke. {TASK}"
    assert why(text) == "it repeats the task"
    assert why(text, told=False) is None
    assert why("Be brief. Where is it?", task="Be brief.") is None  # too short a task to tell


def test_a_combination_may_be_met_but_not_named() -> None:
    assert why("Tone: angry; length: short. Where is it?", tone="angry", length="short") == (
        "it names its combination"
    )
    assert why("What does tone: angry mean?", tone="angry", length="short") is None
    assert why("tone: angry", tone="angry") == "it names its combination"
    assert why("I am angry, and short of money.", tone="angry", length="short") is None


def test_gaps_and_refusals_are_known_by_themselves() -> None:
    assert has_gap("Say [your name].")
    assert not has_gap("Say your name.")
    assert is_refusal("I'm sorry, but I can't do that.")
    assert not is_refusal("You are sorry.")

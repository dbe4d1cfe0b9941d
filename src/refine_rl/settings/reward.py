"""[reward], and the tables inside it: what is wanted."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from refine_rl.settings.base import Impossible, Positive, Section, Share


class RuleSettings(Section):
    """A rule's table: `rule`, `weight`, `name`, and the rule's own parameters."""

    model_config = ConfigDict(extra="allow")

    rule: str
    """The rule's name; every other key is a parameter of that rule."""
    weight: float = 1.0
    """Weight of the component in the combination."""
    name: str | None = None
    """Name of the component; the rule's name without it."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The rule's own parameters; `rewards.rules` checks them."""
        return dict(self.model_extra or {})


class FunctionSettings(Section):
    """A reward function's table."""

    function: str
    """"FILE.py:NAME", the path relative to the task file; or "module:NAME"."""
    weight: float = 1.0
    """Weight of the component in the combination."""
    name: str | None = None
    """Name of the component; the function's own name without it."""
    messages: bool = False
    """Pass lists of chat messages instead of strings (TRL's conversational form)."""


class SanityCase(Section):
    """A pair of completions that the reward must order rightly before training starts."""

    prompt: str
    """What the policy would be asked."""
    good: str
    """A completion that must get the higher reward."""
    bad: str
    """A completion that must get the lower reward."""
    data: dict[str, Any] = {}
    """What rewards may look at, as in the prompt's data."""


class OverlongSettings(Section):
    """A penalty on long completions, added to the reward."""

    kind: Literal["dapo", "linear"] = "dapo"
    """"dapo": 0 up to limit - buffer, then falling to -1 at limit (arXiv 2503.14476, eq. 13);
    "linear": 0 up to limit, then max((limit - n) / limit, -10)."""
    limit: Positive | None = None
    """In `unit`s; without it, rollout.max_tokens; with an environment, as many as all turns may have."""
    buffer: Positive | None = None
    """Only "dapo"; without it, a fifth of the limit."""
    unit: Literal["tokens", "words", "chars"] = "tokens"
    """What `limit` and `buffer` count."""
    weight: float = 1.0
    """The penalty is multiplied by this."""

    impossible: ClassVar[tuple[Impossible[OverlongSettings], ...]] = (
        Impossible(
            when=lambda it: it.unit != "tokens" and it.limit is None,
            why='needs `limit` with `unit = "{it.unit}"`',
        ),
        Impossible(
            when=lambda it: it.buffer is not None and it.kind == "linear",
            why='takes `buffer` with `kind = "dapo"` only',
        ),
        Impossible(
            when=lambda it: it.buffer is not None and it.limit is not None and it.buffer > it.limit,
            why="has a `buffer` that is larger than its `limit`",
        ),
    )


class QuizSettings(Section):
    """A quiz as reward: an LLM writes multiple-choice questions from a source text, another answers them
    from the completion alone; the reward is the share that it gets right."""

    writer: str = ""
    """"ENDPOINT/MODEL" that writes the questions; without it, [writer]'s."""
    reader: str = ""
    """"ENDPOINT/MODEL" that answers them; without it, the first judge, else the writer of the questions."""
    source: str = "source"
    """The key of the prompt's data that holds the text which the questions are about."""
    questions: Annotated[int, Field(ge=1, le=20)] = 10
    """Questions asked for; those that cannot be answered from the source are not used."""
    options: Annotated[int, Field(ge=2, le=6)] = 4
    """Options of each question, "don't know" apart."""
    max_copied: Share = 0.3
    """A completion whose share of word 5-grams that stand in the source is larger loses the rest:
    copying the source answers every question."""
    weight: float = 1.0
    """Weight of the component in the combination."""


class ReasoningGymSettings(Section):
    """What a reasoning-gym dataset's own scorer says of an answer, from 0 to 1. With such a source of prompts
    the component `reasoning_gym` is there without this table; with it, also for a file of prompts that came
    from one."""

    answer: Literal["tags", "whole"] = "tags"
    """"tags": the answer is what stands between the last <answer> and </answer>, and without prompts.system a
    system message asks for them. "whole": the whole completion."""
    weight: float = 1.0
    """Weight of the component in the combination."""


class CodeSettings(Section):
    """Runs the program in an answer against assertions, in a process that is shut in. docs/code.md says how
    a program is found, what tests may be, and what is isolated where."""

    tests: str = "tests"
    """The key of the prompt's data that holds Python text with assertions (or a list of such texts)."""
    grade: Literal["share", "all"] = "share"
    """"share": the share of the assertions that hold. "all": 1 where all of them do, else 0."""
    timeout: Annotated[float, Field(gt=0, le=600)] = 4.0
    """Seconds that a program may take with all of its assertions; one that is not the last may take half of
    what is left."""
    cpu: Annotated[int, Field(ge=1, le=600)] = 2
    """Seconds of the processor that it may use; begun anew after an assertion that ended it."""
    memory: Annotated[int, Field(ge=64)] = 256
    """Megabytes of memory that it may use."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Programs that run at the same time."""
    isolation: Literal["best", "full"] = "best"
    """"best": what this machine allows; what it does not is told before training. "full": a run does not
    start where anything is not isolated."""
    weight: float = 1.0
    """Weight of the component in the combination."""


class StepSettings(Section):
    """What grades the steps of wrong answers, with grpo.flat = "steps" (arXiv 2505.11595): either rules and a
    function, step by step, or judges, who name the first wrong step of an answer."""

    split: str = r"\n+"
    """A regular expression: steps are what stands between its matches. Empty ones do not count."""
    rules: list[RuleSettings] = []
    """A step is right where it gets 1 from every one of these rules ..."""
    function: str = ""
    """... and from this function, "rewards.py:right_step": the step is its `completion`; where it asks for
    `earlier_steps`, it gets the list of those before it."""
    judges: list[str] = []
    """"ENDPOINT/MODEL": each names the first wrong step of an answer, judge.repeats times, a call each time;
    the shares are averaged."""
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """No wrong answer gets more than this share of the advantage that the only right one of a group gets."""

    @field_validator("split")
    @classmethod
    def _splits(cls, split: str) -> str:
        try:
            found = re.compile(split)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if found.fullmatch(""):
            raise ValueError('matches nothing at all; say what stands between steps, such as "\\n+"')
        return split

    impossible: ClassVar[tuple[Impossible[StepSettings], ...]] = (
        Impossible(
            when=lambda it: not (it.by_step or it.judges),
            why="needs either `judges`, or `rules` or a `function`, to grade the steps",
        ),
        Impossible(
            when=lambda it: it.by_step and bool(it.judges),
            why="needs either `judges`, or `rules` or a `function`, and not both",
        ),
    )

    @property
    def by_step(self) -> bool:
        """Whether rules or a function grade each step."""
        return bool(self.rules) or bool(self.function)


class WorldSettings(Section):
    """[reward.world]: what the rewards of rollout.environment, one a turn, come to. The component is called
    `world`; it is there with every environment, also without this table."""

    take: Literal["sum", "best", "last"] = "sum"
    """"sum": all turns' together; "best": the highest; "last": the last turn's."""
    discount: Share = 1.0
    """The reward of turn k counts discount ** (k - 1) times: below 1, what is won earlier counts more."""
    weight: float = 1.0
    """Weight of the component in the combination."""


class RewardSettings(Section):
    """[reward]: what is wanted, as judges, rules, functions and code that is run."""

    judges: list[str] = []
    """LLMs that score the answers, each "ENDPOINT/MODEL"; several are a panel, and their scores are
    averaged. [judge] says how they judge."""
    rubric: str = ""
    """What they judge by, beside the task: a text, "file:PATH", or "write" (the writer makes a list of
    weighted criteria from the task). Without it, the task and a general rubric."""
    quiz: QuizSettings | None = None
    """A quiz; none without this table."""
    reasoning_gym: ReasoningGymSettings | None = None
    """How answers to a reasoning-gym dataset are scored."""
    world: WorldSettings | None = None
    """How the rewards of rollout.environment count; without this table, their sum."""
    code: CodeSettings | None = None
    """Code that is run against tests (component `code`); none without this table."""
    steps: StepSettings | None = None
    """What grades the steps of wrong answers; only with grpo.flat = "steps"."""
    rules: list[RuleSettings] = []
    """Built-in rules, each a table: {rule = "words", max = 20, weight = 0.5}."""
    functions: list[str | FunctionSettings] = []
    """Functions of your own: "rewards.py:brevity", or a table with a weight."""
    combine: Literal["sum", "product"] = "sum"
    """"sum": sum of weight * component. "product": product of component ** weight (components must
    be in [0, 1])."""
    weights: dict[str, float] = {}
    """Weights by component name, for components whose own table has none."""
    overlong: OverlongSettings | None = None
    """A penalty on long completions; none without this table."""
    success: float = 1.0
    """A completion is a full success when every component of a weight above 0 (penalties apart) reaches
    this; a judge's or quiz's component, judge.success."""
    sanity: list[SanityCase] = []
    """Checked before training; a bad completion that scores as high as the good one stops the run."""
    max_missing: Share = 0.2
    """The run stops when more than this share of the scores of a step, of a validation or of the base model's
    held-out answers is missing. What is missing once training is over stops nothing; the comparison counts
    it."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that one call of a function may take; in TRL's form a call scores a whole group. What takes
    longer is stopped, and its score is missing."""

    @property
    def asks(self) -> bool:
        """Whether an LLM is asked while a step is scored."""
        return (
            bool(self.judges) or self.quiz is not None or (self.steps is not None and bool(self.steps.judges))
        )

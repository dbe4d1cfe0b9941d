"""Every setting, once: its name, type, default and meaning.

Defaults stand here and nowhere else. `config_file.py` reads and writes them as TOML; this module
only says what is allowed. An unknown key, a wrong type or an impossible combination is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
_TAKEN_BY_PROMPTS = ("prompt", "messages", "completion", "id", "split", "facets", "data")

S = TypeVar("S", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _refuse(settings: S, problems: list[str]) -> S:
    """Give the settings back, or refuse them, a problem a line; the first `key` in it is its place."""
    if problems:
        raise ValueError("\n".join(problems))
    return settings


class ModelSettings(_Section):
    """[model]: which model is trained, and how much of it."""

    name: str = "Qwen/Qwen2.5-0.5B-Instruct"
    """A hub id, a folder, or "tiny" (the bundled model). An adapter too: its base model with the adapter
    merged in is the start then."""
    adapter: Literal["lora", "none"] = "lora"
    """"lora" trains a low-rank adapter; "none" trains every weight."""
    rank: Positive = 16
    """Rank of the LoRA matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """LoRA scale; the adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA dropout while training. Off by default: it makes trainer and sampler disagree."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers the adapter is put on: all linear ones but the head, or a list of names (the last parts
    of the layers' own, such as "q_proj")."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; "auto": the one in which a layer of this model's shape takes less
    time here. What was found stands in the run's config.toml."""
    device: str = "auto"
    """"auto" (cuda, else mps, else cpu) or a torch device."""
    gradient_checkpointing: bool = False
    """Training keeps each layer's input alone and computes the layer again on the way back: less memory, for
    a third (LoRA: half) more work in training. The result is the same."""

    @field_validator("name")
    @classmethod
    def _names_something(cls, name: str) -> str:
        if not name.strip():
            raise ValueError('is empty; name a model on the hub or a folder, or "tiny", the bundled one')
        return name


class PromptSettings(_Section):
    """[prompts]: where prompts come from and how they are split."""

    source: str = ""
    """"writer" (the LLM of [writer] writes them from the task), "recipe:NAME" or "file:PATH" (.jsonl,
    .json, .csv, .txt, or a .py file with a function `prompts(split, count, seed)`). Without it, the writer
    where there is one."""
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
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Prompts of different splits (a writer's: any two) whose similarity reaches this are not both kept; 1
    turns it off."""
    similarity: Literal["words", "meaning"] = "words"
    """What near-duplicates are measured by: "words" (Jaccard similarity of word trigrams) or "meaning" (as
    well the cosine of a small sentence encoder; needs the extra refine-rl[encoder])."""
    max_tokens: Positive = 2048
    """Longer prompts are set aside, with a word."""
    pool: Literal["all", "informative"] = "all"
    """"all": every pass takes every training prompt once. "informative": prompts whose group had no spread
    rest for some steps, longer each time, and then get another chance."""
    probe: Annotated[int, Field(ge=0)] = 0
    """With pool = "informative": answers that the untrained model gives to every training prompt before the
    first step; prompts without spread begin by resting. 0: no probe."""

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

    @model_validator(mode="after")
    def _combinations(self) -> PromptSettings:
        problems = []
        if self.probe == 1:
            problems.append("`probe` needs at least 2 answers: one answer has no spread")
        if self.probe and self.pool != "informative":
            problems.append('`probe` goes with `pool = "informative"`')
        return _refuse(self, problems)


class PriceSettings(_Section):
    """What a model costs, in dollars a million tokens."""

    input: Annotated[float, Field(ge=0)]
    """A million tokens that go in."""
    output: Annotated[float, Field(ge=0)]
    """A million tokens that come out, those of its reasoning included."""


class EndpointSettings(_Section):
    """[endpoints.NAME]: where LLMs answer. "NAME/model" names one of its models in [writer], [reward] and
    [judge]; openai, openrouter, together, groq, ollama, vllm and lm-studio need no table."""

    base_url: str | None = None
    """The API's address, such as "http://127.0.0.1:8000/v1"; a preset's own without it."""
    key_env: str | None = None
    """The environment variable that holds the key ("" where none is needed); a preset's own without it. Keys
    stand nowhere else."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that one attempt may take."""
    concurrency: Positive = 8
    """Calls under way at once."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Further attempts after a busy or failing server (429, 5xx, no connection, no answer in time)."""
    prices: dict[str, PriceSettings] = {}
    """By model ("*": all others): {"deepseek/deepseek-r1" = {input = 0.5, output = 2.2}}. Without it, the
    price that the endpoint reports or that the tables of genai-prices know; else the cost is unknown."""
    cache: bool = True
    """Replies are kept on disk, so that what was paid for once is not asked again."""
    record: bool = True
    """What is asked here and what is replied stands in the run's llm_replies.jsonl and in its report."""


class WriterSettings(_Section):
    """[writer]: the LLM that writes prompts from the task, and a rubric or questions where asked to."""

    model: str = ""
    """"ENDPOINT/MODEL", such as "openrouter/moonshotai/kimi-k2"."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Of its sampling."""
    batch: Positive = 10
    """Prompts asked for in one call."""
    system: bool = True
    """It writes a system message for the policy too, where prompts.system has none."""
    check: bool = True
    """It is asked once more of each batch which of its prompts are answers in truth; those are refused."""
    max_tokens: Positive = 8192
    """Of one reply."""


class RuleSettings(BaseModel):
    """A rule's table: `rule`, `weight`, `name`, and the rule's own parameters."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

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


class FunctionSettings(_Section):
    """A reward function's table."""

    function: str
    """"FILE.py:NAME", the path relative to the task file; or "module:NAME"."""
    weight: float = 1.0
    """Weight of the component in the combination."""
    name: str | None = None
    """Name of the component; the function's own name without it."""
    messages: bool = False
    """Pass lists of chat messages instead of strings (TRL's conversational form)."""


class SanityCase(_Section):
    """A pair of completions that the reward must order rightly before training starts."""

    prompt: str
    """What the policy would be asked."""
    good: str
    """A completion that must get the higher reward."""
    bad: str
    """A completion that must get the lower reward."""
    data: dict[str, Any] = {}
    """What rewards may look at, as in the prompt's data."""


class OverlongSettings(_Section):
    """A penalty on long completions, added to the reward."""

    kind: Literal["dapo", "linear"] = "dapo"
    """"dapo": 0 up to limit - buffer, then falling to -1 at limit (arXiv 2503.14476, eq. 13);
    "linear": 0 up to limit, then max((limit - n) / limit, -10)."""
    limit: Positive | None = None
    """In `unit`s; without it, rollout.max_tokens."""
    buffer: Positive | None = None
    """Only "dapo"; without it, a fifth of the limit."""
    unit: Literal["tokens", "words", "chars"] = "tokens"
    """What `limit` and `buffer` count."""
    weight: float = 1.0
    """The penalty is multiplied by this."""

    @model_validator(mode="after")
    def _combinations(self) -> OverlongSettings:
        problems = []
        if self.unit != "tokens" and self.limit is None:
            problems.append(f'needs `limit` with `unit = "{self.unit}"`')
        if self.buffer is not None and self.kind == "linear":
            problems.append('takes `buffer` with `kind = "dapo"` only')
        if self.buffer is not None and self.limit is not None and self.buffer > self.limit:
            problems.append("has a `buffer` that is larger than its `limit`")
        return _refuse(self, problems)


class QuizSettings(_Section):
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


class StepSettings(_Section):
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

    @model_validator(mode="after")
    def _combinations(self) -> StepSettings:
        problems = []
        by_step = bool(self.rules) or bool(self.function)
        if by_step == bool(self.judges):
            which = "and not both" if by_step else "to grade the steps"
            problems.append(f"needs either `judges`, or `rules` or a `function`, {which}")
        return _refuse(self, problems)


class RewardSettings(_Section):
    """[reward]: what is wanted, as judges, rules and functions."""

    judges: list[str] = []
    """LLMs that score the answers, each "ENDPOINT/MODEL"; several are a panel, and their scores are
    averaged. [judge] says how they judge."""
    rubric: str = ""
    """What they judge by, beside the task: a text, "file:PATH", or "write" (the writer makes a list of
    weighted criteria from the task). Without it, the task and a general rubric."""
    quiz: QuizSettings | None = None
    """A quiz; none without this table."""
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


class JudgeSettings(_Section):
    """[judge]: how the judges of reward.judges judge."""

    kind: Literal["ruler", "absolute", "pairwise"] = "ruler"
    """"ruler": a group in one request, each answer scored beside the others; "absolute": each answer
    alone, 1 to 10; "pairwise": two answers at a time, in both orders, scored by the share of wins."""
    weight: float = 1.0
    """Weight of the judges' component in the combination."""
    repeats: Positive = 1
    """Looks that each judge takes at a group; their scores are averaged. No two are the same request: a ruler
    sees the answers in another order each time, the others the points of the rubric, and every second time
    the answer before what it was given to."""
    adaptive: bool = False
    """Two looks first; the others only where those two disagree."""
    larger: str = ""
    """"ENDPOINT/MODEL" that is asked only where the looks disagree; then its word counts alone."""
    agree: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Looks disagree below this agreement (mean Kendall tau-b of their orders: 1 the same, -1 opposite)."""
    shrink: bool = False
    """A group's advantages are multiplied by its agreement, or by 0 where that is negative."""
    gate: list[str] = []
    """Names of rules that an answer must fully pass before a judge sees it; others get the judges' floor of
    0 without a call."""
    anchors: bool = True
    """At the start and with each validation, bad answers on purpose (empty, off the topic, the prompt
    copied, an order to the judge ...) are judged beside real ones; a judge that likes them stops the run."""
    anchor_prompts: Positive = 2
    """Prompts with which the bad answers are judged each time."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Of the judges' sampling."""
    max_tokens: Positive = 8192
    """Of one reply, its reasoning included."""
    corrections: Annotated[int, Field(ge=0)] = 2
    """Times that a reply which cannot be used is sent back with what is wrong with it."""
    success: Share = 0.75
    """Scores from here on count as a full success (see reward.success)."""


class EarlyExitSettings(_Section):
    """[rollout.early_exit]: S-GRPO (arXiv 2505.07686). A group is one answer with its whole thought and
    rollout.group_size - 1 early exits (fewer where the thought is shorter): the same thought cut at random
    places, ended there, and answered. Right answers (reward.success) earn 1, 1/2, 1/4 ... from the earliest
    exit on, others 0. Only in training: validation and comparison let the model think."""

    ends: str
    """The text with which the model itself ends a thought, such as "</think>"."""
    forced: str = ""
    """What is put where a thought is cut: it ends the thought, so `ends` must stand in it. Without it, `ends`
    alone."""
    answer_tokens: Positive = 64
    """The answer behind an early exit is cut here; thought, `forced` and answer together stay within
    rollout.max_tokens."""

    @model_validator(mode="after")
    def _combinations(self) -> EarlyExitSettings:
        problems = []
        if not self.ends.strip():
            problems.append("needs `ends`, the text with which the model ends a thought")
        elif self.forced and self.ends not in self.forced:
            problems.append(f"has a `forced` that does not end the thought: put {self.ends!r} into it")
        return _refuse(self, problems)


class RolloutSettings(_Section):
    """[rollout]: how the policy answers."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions a prompt; their spread is what GRPO learns from."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of the sampling; higher is more varied."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together reach this probability are sampled; 1: all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only this many of the likeliest tokens are sampled; 0: all."""
    max_tokens: Positive = 256
    """A completion is cut here, with stop reason "length"."""
    ahead: Literal["auto", 0, 1] = "auto"
    """1: the next step's answers are sampled while this step's are being judged, so with weights one update
    older (none across a checkpoint or validation). 0: always with the newest. "auto": 1 where an LLM
    is asked for scores, without grpo.resample, else 0."""
    early_exit: EarlyExitSettings | None = None
    """Thoughts are cut and answered early, so that short ones win; not without this table."""

    @property
    def limits(self) -> dict[str, int]:
        """The settings that cut a completion, with their tokens."""
        own = {"rollout.max_tokens": self.max_tokens}
        if self.early_exit is not None:  # what comes after a cut thought has a limit of its own
            own["rollout.early_exit.answer_tokens"] = self.early_exit.answer_tokens
        return own

    @property
    def decays(self) -> bool:
        """Whether a right answer earns less the later it stands in its group; that is a spread of its own."""
        return self.early_exit is not None


class GRPOSettings(_Section):
    """[grpo]: the update."""

    steps: Positive = 100
    """Rounds of sampling, scoring and updating."""
    prompts_per_step: Positive = 8
    """Prompts a step; each gets rollout.group_size completions."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Without it: 1e-4 for LoRA, 1e-5 for full fine-tuning; for "tiny" 1e-3 and 3e-4."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up; "linear" and "cosine" end at 0."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Larger gradients are scaled down to this norm."""
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"] = "grpo"
    """"grpo": tokens averaged over each completion, then over completions (arXiv 2402.03300); "dapo": over
    all tokens of the step (2503.14476); "bnpo": as "dapo", with the clip of "grpo"; "dr_grpo": sum over a
    constant length (2503.20783); "gspo": one ratio a completion (2507.18071); "cispo": the clip bounds a
    token's weight (2506.13585); "sapo": a soft gate for the clip (2511.20347). See docs/algorithms.md."""
    advantage: Literal["zscore", "mean", "rloo", "gdpo"] = "zscore"
    """"zscore": (R - mean) / (std + epsilon); "mean": R - mean; "rloo": R - mean of the others; "gdpo":
    z-score of each component, then the weighted sum, then normalised over the batch."""
    flat: Literal["keep", "drop", "sign", "steps"] | None = None
    """A group whose rewards are all equal: "keep": it counts in the loss's denominators, with advantage 0;
    "drop": it does not count (AGPO, arXiv 2503.15952 v3; DAPO); "sign": advantage 1 where its reward reaches
    grpo.solved, else -1 (AGPO v1); "steps": where its reward is below grpo.solved, the steps of its answers
    are graded by [reward.steps], and tell them apart (SGPO, 2505.11595). Without it: "drop" with
    grpo.resample, else "keep"."""
    solved: float | None = None
    """With flat = "sign" or "steps", and needed there: the reward from which a group of equal rewards is
    solved."""
    resample: Annotated[int, Field(ge=0)] = 0
    """DAPO (2503.14476): at most this many groups of other prompts are sampled in a step in place of groups
    whose rewards are all equal. Not with rollout.ahead or flat = "steps"."""
    deviation: Literal["sample", "population"] = "sample"
    """Standard deviation with denominator G - 1 or G."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-4
    """Added to the standard deviation."""
    clip_low: Annotated[float, Field(gt=0, le=1)] | None = None
    """The ratio of new to old probability is clipped below 1 - clip_low ... Without it: 0.2; 0.0003 for
    "gspo", 1 (nothing is clipped) for "cispo". "sapo" has no clip."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """... and above 1 + clip_high. Without it: 0.28 for "dapo", 0.0004 for "gspo", 4 for "cispo", else
    clip_low."""
    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """With it, each token weighs min(p / q, importance_cap), p its probability for the trainer before the
    step's updates and q for the sampler, and the ratio is of new to p: for a sampler that is not the trainer,
    or lags. Without it, q is the old probability. Not with model.dropout."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the KL term. At 0 the KL is still measured, on a few completions a step."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Nats a token. With it, grpo.kl is where the coefficient starts; after a step whose KL was above (below)
    the target it grows (shrinks) by up to 2 % (arXiv 1909.08593). Without it, it is fixed."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. In the loss the gradient
    of k1 is 0 on average: use it in the reward."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL term goes: added to the loss, or taken from the reward before the advantage."""
    updates_per_step: Positive = 1
    """Optimizer updates on the same rollouts; the log-probs of the first stay the old ones."""
    tokens_per_micro_batch: Positive = 2048
    """Tokens that go through the model at once (a prompt once for all its completions), in all micro-batches
    that a processor works side by side; a group is cut only behind as many tokens as its prompt has. The
    result does not depend on it but for rounding."""
    validate_every: Annotated[int, Field(ge=0)] = 10
    """Steps between scorings of the validation prompts; 0: never (the last checkpoint is used)."""
    checkpoint_every: Positive = 10
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 3
    """The newest ones; the best on validation is kept beside them, always."""
    zero_variance_patience: Positive = 10
    """The run stops after this many steps in which no group had any spread."""
    all_cut_patience: Positive = 1
    """The run stops after this many steps in which every completion was cut at rollout.max_tokens."""
    mismatch_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Allowed mean |trainer - sampler| log-prob; without it, derived from the number format and the model's
    size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """All randomness of the run follows from it."""


class EvaluateSettings(_Section):
    """[evaluate]: base against tuned on held-out prompts."""

    judge: str = ""
    """"ENDPOINT/MODEL" that judges the comparison in place of reward.judges: an eye that training did not
    please. Only with reward.judges."""
    samples: Positive = 4
    """Sampled answers a prompt, at temperature 1 from the whole distribution, beside one greedy answer."""
    bootstrap: Annotated[int, Field(ge=100)] = 10_000
    """Resamples of the prompts for the intervals."""


class BudgetSettings(_Section):
    """[budget]: a hard cap; reaching it saves, reports and ends with exit code 3."""

    dollars: Annotated[float, Field(gt=0)] | None = None
    """Cost of all LLM calls of the run, over all resumes; every model then needs a known price. Calls under
    way when it is reached are still paid. Without it, no cap."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock time up to the end of training, over all resumes, looked at after each step; without it, no
    cap."""


class Settings(_Section):
    """A whole task.toml. `folder` is where relative paths start; it is never written."""

    task: str
    """What is wanted, in plain words."""
    name: str = ""
    """Name of the run's folder; without it, the task folder's name."""
    model: ModelSettings = ModelSettings()
    """Which model is trained, and how much of it."""
    prompts: PromptSettings = PromptSettings()
    """Where prompts come from and how they are split."""
    endpoints: dict[str, EndpointSettings] = {}
    """Where LLMs answer, by name."""
    writer: WriterSettings = WriterSettings()
    """The LLM that writes prompts from the task."""
    reward: RewardSettings = RewardSettings()
    """What is wanted, as judges, rules and functions."""
    judge: JudgeSettings = JudgeSettings()
    """How the judges judge."""
    rollout: RolloutSettings = RolloutSettings()
    """How the policy answers."""
    grpo: GRPOSettings = GRPOSettings()
    """The update."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Base against tuned on held-out prompts."""
    budget: BudgetSettings = BudgetSettings()
    """A hard cap."""
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("task")
    @classmethod
    def _says_something(cls, task: str) -> str:
        if not task.strip():
            raise ValueError("is empty; say in plain words what is wanted")
        return task

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name in (".", "..") or not set("/\\\n").isdisjoint(name):
            raise ValueError("names a folder inside runs/; `--run DIR` takes any other folder")
        return name

    @model_validator(mode="after")
    def _combinations(self) -> Settings:
        problems = []
        if self.grpo.warmup_steps > self.grpo.steps:
            problems.append("`grpo.warmup_steps` is larger than `grpo.steps`")
        if self.grpo.advantage == "gdpo" and self.reward.combine == "product":
            problems.append('`grpo.advantage = "gdpo"` sums components: use `reward.combine = "sum"`')
        if self.grpo.advantage == "gdpo" and self.grpo.kl > 0 and self.grpo.kl_in == "reward":
            problems.append('`grpo.advantage = "gdpo"` normalises components: use `grpo.kl_in = "loss"`')
        problems += self._impossible_updates()
        problems += self._impossible_early_exits()
        if self.prompts.source == "writer" and not self.writer.model:
            problems.append('`prompts.source = "writer"` needs `writer.model = "ENDPOINT/MODEL"`')
        if self.reward.rubric == "write" and not self.writer.model:
            problems.append('`reward.rubric = "write"` needs `writer.model = "ENDPOINT/MODEL"`')
        if self.reward.rubric and not self.reward.judges:
            problems.append('`reward.rubric` needs `reward.judges = ["ENDPOINT/MODEL"]`')
        if self.evaluate.judge and not self.reward.judges:
            problems.append('`evaluate.judge` needs `reward.judges = ["ENDPOINT/MODEL"]`')
        looks = self.judge.repeats * len(self.reward.judges)
        if self.reward.judges and self.judge.adaptive and looks < 3:
            problems.append("`judge.adaptive` saves looks after the second: set `judge.repeats` to 3 or more")
        if self.reward.judges and (self.judge.larger or self.judge.shrink) and looks < 2:
            which = "larger" if self.judge.larger else "shrink"
            problems.append(
                f"`judge.{which}` acts on how far looks agree: set `judge.repeats` to 2 or more, or name "
                "several judges"
            )
        return _refuse(self, problems)

    def _impossible_updates(self) -> Iterator[str]:
        g = self.grpo
        if g.kl_target is not None and g.kl == 0:
            yield "`grpo.kl_target` needs a coefficient to start from: set `grpo.kl` above 0"
        if g.kl_in == "reward" and g.kl == 0:
            yield '`grpo.kl_in = "reward"` does nothing without a coefficient: set `grpo.kl` above 0'
        if g.loss == "sapo" and not (g.clip_low is None and g.clip_high is None):
            yield '`grpo.loss = "sapo"` does not clip: leave `grpo.clip_low` and `grpo.clip_high` out'
        if g.importance_cap is not None and self.model.dropout > 0:
            yield "`grpo.importance_cap` compares log-probs that dropout disturbs: set `model.dropout = 0`"
        if g.resample and self.rollout.ahead == 1:
            yield "`grpo.resample` waits for the rewards of a step: use `rollout.ahead = 0`"
        if g.flat in ("sign", "steps") and g.solved is None:
            yield f'`grpo.flat = "{g.flat}"` needs `grpo.solved`, the reward from which a group is solved'
        if g.flat not in ("sign", "steps") and g.solved is not None:
            yield '`grpo.solved` is for `grpo.flat = "sign"` or `"steps"` alone: leave it out'
        if g.flat in ("sign", "steps") and self.reward.judges and self.judge.kind != "absolute":
            yield (
                f'`grpo.flat = "{g.flat}"` asks whether a group is solved, and judges that compare cannot '
                'say so: use `judge.kind = "absolute"`'
            )
        if g.flat == "steps" and self.reward.steps is None:
            yield '`grpo.flat = "steps"` needs the table `[reward.steps]`, which says what grades them'
        if g.flat != "steps" and self.reward.steps is not None:
            yield '`reward.steps` grades for `grpo.flat = "steps"` alone: set that, or leave the table out'
        if g.flat == "steps":
            if g.resample:
                yield '`grpo.resample` replaces the groups that `grpo.flat = "steps"` grades: leave one out'
            if g.advantage == "gdpo":
                yield (
                    '`grpo.flat = "steps"` has no component for `grpo.advantage = "gdpo"` to normalise: use '
                    "another advantage"
                )
            if g.kl > 0 and g.kl_in == "reward":
                yield (
                    '`grpo.kl_in = "reward"` tells the answers of every group apart, so that none is left '
                    'for `grpo.flat = "steps"`: use `grpo.kl_in = "loss"`'
                )

    def _impossible_early_exits(self) -> Iterator[str]:
        exits = self.rollout.early_exit
        if exits is None:
            return
        if exits.answer_tokens >= self.rollout.max_tokens:
            yield (
                "`rollout.early_exit.answer_tokens` leaves no room for a thought: it must be below "
                "`rollout.max_tokens`"
            )
        if self.reward.judges and self.judge.kind != "absolute":
            yield (
                "`rollout.early_exit` asks whether an answer is right, and judges that compare cannot say "
                'so: use `judge.kind = "absolute"`'
            )
        if self.reward.overlong is not None:
            yield "`rollout.early_exit` pays short thoughts itself: leave `reward.overlong` out"
        if self.grpo.advantage == "gdpo":
            yield (
                '`rollout.early_exit` pays by the order of the right answers, and `grpo.advantage = "gdpo"` '
                "looks at components alone: use another advantage"
            )
        if self.grpo.flat == "steps":
            yield (
                '`grpo.flat = "steps"` tells answers apart by their steps, and those of early exits are the '
                "same: leave one of `rollout.early_exit` and `grpo.flat` out"
            )
        if self.prompts.probe:
            yield (
                "`prompts.probe` would set prompts aside that are always solved, and `rollout.early_exit` "
                "still learns from them: leave it out"
            )

    @property
    def writes_prompts(self) -> bool:
        """Whether the writer makes the prompts."""
        return self.prompts.source == "writer" or (not self.prompts.source and bool(self.writer.model))

    @property
    def ahead(self) -> bool:
        """Whether a step's answers are sampled while those of the step before are being judged."""
        if self.rollout.ahead == "auto":
            return not self.grpo.resample and self.reward.asks
        return self.rollout.ahead == 1

    @property
    def learning_rate(self) -> float:
        """The learning rate in force: LoRA wants about ten times that of full fine-tuning."""
        if self.grpo.learning_rate is not None:
            return self.grpo.learning_rate
        if self.model.name == "tiny":  # a small model takes, and needs, larger steps
            return 1e-3 if self.model.adapter == "lora" else 3e-4
        return 1e-4 if self.model.adapter == "lora" else 1e-5

    @property
    def clip_low(self) -> float:
        """The lower clip range in force."""
        if self.grpo.clip_low is not None:
            return self.grpo.clip_low
        return {"gspo": 3e-4, "cispo": 1.0}.get(self.grpo.loss, 0.2)

    @property
    def clip_high(self) -> float:
        """The upper clip range in force."""
        if self.grpo.clip_high is not None:
            return self.grpo.clip_high
        return {"dapo": 0.28, "gspo": 4e-4, "cispo": 4.0}.get(self.grpo.loss, self.clip_low)

    @property
    def flat(self) -> Literal["keep", "drop", "sign", "steps"]:
        """What becomes of a group whose rewards are all equal."""
        return self.grpo.flat or ("drop" if self.grpo.resample else "keep")

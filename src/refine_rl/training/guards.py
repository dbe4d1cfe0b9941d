"""Guards over the history of a run, each a pure function of the metrics so far.

`Guards.stop` raises GuardStop where going on would waste hours; `warnings` names what a person should look
at. A mismatch of sampler and trainer and a loss that is not finite are caught by the learner, before
any weight moves; too many missing scores in collect.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, variance

from refine_rl.errors import GuardStop
from refine_rl.evaluate.content import content_loss, kept_words
from refine_rl.evaluate.variety import collapse
from refine_rl.training.checkpoint import Position
from refine_rl.types import Content, StepMetrics, decimals, same_value

WINDOW = 5  # steps over which the start and the present are averaged
TOP_STEPS = 3  # steps without spread and at full reward after which training has done its work,
TOP_GROUPS = 12  # if they have so many groups: a few are all right by luck
EXPLODED = 1000.0  # times the median of the gradient norms before
EXPLODED_STEPS = 3
WILDER = 2.0  # times the entropy of the start, and
WILDER_BY = 0.5  # nats a token above it: training takes the policy apart
STARVING = 20  # steps over which the scored groups of a facet's value are counted
EXPECTED = 8.0  # of which so many would be scored by chance, where fewer than
STARVED = 0.25  # times as many are
FELL = 0.75  # times the best reward of a window, below which, and
FELL_BY = 5.0  # standard errors of the two windows' means, it has fallen
ENDED = 0.5  # cut completions of the first step, below which the policy knew how to end an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """What ends a training. `limits` are the settings that cut a completion, with their tokens; `flat` and
    `resample` say what becomes of groups without spread."""

    all_cut_patience: int = 1
    zero_variance_patience: int = 10
    limits: Mapping[str, int] = field(default_factory=dict)
    flat: str = "keep"
    resample: int = 0

    def stop(self, history: Sequence[StepMetrics]) -> None:
        """Raises GuardStop if the newest step completes a pattern that does not mend itself."""
        newest = history[-1]
        recent = history[-self.all_cut_patience :]
        if len(recent) == self.all_cut_patience and all(m.clipped_share == 1.0 for m in recent):
            cut = " or ".join(f"{name} = {limit}" for name, limit in self.limits.items())
            what = f"Step {newest.step}: every completion was cut at {cut}; none reached its stop token."
            raise GuardStop("all_cut", what, self._after_all_cut(history[0].clipped_share))
        patience = self.zero_variance_patience
        recent = history[-patience:]
        if len(recent) == patience and all(_without_signal(m) == m.groups for m in recent):
            level = newest.reward_mean if newest.reward_mean is not None else float("nan")
            raise GuardStop(
                "no_variance",
                f"Step {newest.step}: in the last {patience} steps no group had any spread in its rewards "
                f"(mean {decimals(level)}), {self._what_that_means()}",
                "If the reward is at its top, training is done: end it here, with "
                f"grpo.steps={newest.step}. To try on, raise grpo.zero_variance_patience. Otherwise start "
                "anew with a finer reward (partial credit, rules that grade), other prompts, a higher "
                "temperature or larger groups.",
            )
        before = [m.grad_norm for m in history[:-EXPLODED_STEPS] if m.grad_norm]
        last = [m.grad_norm or 0.0 for m in history[-EXPLODED_STEPS:]]
        if len(before) >= WINDOW and min(last) > EXPLODED * median(before):
            raise GuardStop(
                "exploding_gradient",
                f"Step {newest.step}: for {EXPLODED_STEPS} steps the gradient's norm was over {EXPLODED:.0f} "
                f"times its median ({median(before):.3g}).",
                "Go back to an earlier checkpoint, with a lower grpo.learning_rate.",
            )

    def _after_all_cut(self, at_first: float) -> str:
        """What to try, by the share of completions that was cut in the first step."""
        if at_first < ENDED:
            return (
                f"In the first step {at_first:.0%} were: it is training that took the end of the answers "
                "away. Go back to an earlier checkpoint, with a lower grpo.learning_rate; where the reward "
                "grows with length, mend it first."
            ).replace("%", " %")
        return (
            f"Start anew with a larger {' or '.join(self.limits)}, or a model that ends its answers (an "
            "instruct model with its own chat template). If it should learn to stop, go on with a higher "
            "grpo.all_cut_patience."
        )

    def _what_that_means(self) -> str:
        """The end of the sentence that no group had any spread."""
        if self.flat == "sign":
            return (
                'so grpo.flat = "sign" pushed all answers to a prompt the same way, up or down, and no '
                "update compared any."
            )
        if self.flat == "steps":
            return "and the steps of their answers did not differ either: there was nothing to learn from."
        if self.resample:
            return (
                f"nor had those sampled in their place (grpo.resample = {self.resample}), so there was "
                "nothing to learn from."
            )
        return "so there was nothing to learn from."


def _without_signal(metrics: StepMetrics) -> int:
    """Groups in which nothing told the answers apart, neither rewards nor graded steps; none where a teacher
    tells their tokens apart."""
    if metrics.teacher_kl is not None:
        return 0
    return metrics.groups_zero_variance - metrics.groups_by_steps


def at_the_top(history: Sequence[StepMetrics], weights: Mapping[str, float]) -> bool:
    """Whether nothing is left to win: no group had any spread for a while, and every component that is
    paid for is 1 (components that go higher, or penalties, are never called done); never beside a teacher."""
    steps, groups = 0, 0
    paid = [name for name, weight in weights.items() if weight > 0]
    for m in reversed(history):
        if (
            m.groups_zero_variance < m.groups
            or m.teacher_kl is not None
            or not all(same_value([m.components.get(name, 0.0), 1.0]) for name in paid)
        ):
            return False
        steps, groups = steps + 1, groups + m.groups
        if steps >= TOP_STEPS and groups >= TOP_GROUPS:
            return True
    return False


def warnings(history: Sequence[StepMetrics]) -> dict[str, str]:
    """Name -> text of every collapse that the history shows by now."""
    if len(history) < 2 * WINDOW:
        return {}
    first, last = history[:WINDOW], history[-WINDOW:]
    found: dict[str, str] = {}
    tokens_then, tokens_now = fmean(m.tokens_mean for m in first), fmean(m.tokens_mean for m in last)
    if text := _content_loss(history):
        found["content_loss"] = text
    elif tokens_now < 0.4 * tokens_then:
        kept = kept_words(_content(first), _content(last))
        words = f", and {kept} of the prompts' content words" if kept else ""
        found["length_collapse"] = (
            f"Completions shrank from {tokens_then:.0f} to {tokens_now:.0f} tokens on average{words}. If the "
            "task does not ask for it, the reward pays for leaving things out: read some rollouts, and add a "
            "length window (rule words with min) or a rule that keeps the content (keeps)."
        )
    if tokens_now > 2.5 * tokens_then:
        found["length_growth"] = (
            f"Completions grew from {tokens_then:.0f} to {tokens_now:.0f} tokens on average. If the task "
            "does not ask for it, padding pays: add a length window or [reward.overlong]."
        )
    entropy_then = fmean(m.entropy or 0.0 for m in first)
    entropy_now = fmean(m.entropy or 0.0 for m in last)
    if entropy_then > 0 and entropy_now < 0.1 * entropy_then:
        found["entropy_collapse"] = (
            f"Entropy fell from {entropy_then:.3f} to {entropy_now:.3f} nats a token: the policy hardly "
            "tries anything new. Stop here, or lower grpo.learning_rate, add grpo.kl, raise clip_high."
        )
    if entropy_then > 0 and entropy_now > max(WILDER * entropy_then, entropy_then + WILDER_BY):
        found["entropy_rise"] = (
            f"Entropy rose from {entropy_then:.3f} to {entropy_now:.3f} nats a token: updates take the "
            "policy apart faster than rewards put it together. Go back to an earlier checkpoint, with a "
            "lower grpo.learning_rate; with several updates_per_step a grpo.kl_stop; or less grpo.replay."
        )
    if text := _fallen([m.reward_mean for m in history if m.reward_mean is not None]):
        found["reward_fall"] = text
    if text := _starved(history[-STARVING:]):
        found["starved_facet"] = text
    if text := collapse(_distinct(first), _distinct(last), last[-1].openings):
        found["same_answers"] = text
    if fmean(m.clipped_share for m in last) > 0.5:
        found["many_cut"] = (
            "More than half of the completions are cut at rollout.max_tokens; raise it, or reward "
            "shorter answers."
        )
    if all(m.ends and m.ends["done"] == 0.0 for m in last):
        found["no_end"] = (
            "For some steps no trajectory was ended by its world: all ran out of turns or tokens, and what "
            "the world pays at its end was never paid. Raise rollout.turns, or make the world easier to end."
        )
    if fmean(_without_signal(m) / m.groups for m in last) > 0.75:
        found["little_signal"] = (
            "In more than three of four groups all rewards are equal, so most of the work compares "
            "nothing: training may be done, or the reward is too coarse or too hard."
        )
    return found


def _fallen(rewards: Sequence[float]) -> str:
    """Whether the mean reward of the last steps is far below a positive one of a window before; windows do
    not overlap."""
    now = rewards[-WINDOW:]
    before = [rewards[i : i + WINDOW] for i in range(len(rewards) - 2 * WINDOW + 1)]
    if not before:
        return ""
    best = max(before, key=fmean)
    high, low = fmean(best), fmean(now)
    error = ((variance(best) + variance(now)) / WINDOW) ** 0.5
    if high <= 0 or low >= FELL * high or high - low <= FELL_BY * error:
        return ""
    return (
        f"The mean reward of {WINDOW} steps fell from {decimals(high)} to {decimals(low)}: an update "
        "took the policy apart, or prompts became harder. Unless it is the prompts: go back to an "
        "earlier checkpoint, with a lower grpo.learning_rate; with several updates_per_step or minibatches "
        "a smaller grpo.kl_stop."
    )


def _starved(recent: Sequence[StepMetrics]) -> str:
    """Whether groups of a kind of prompt are sampled and hardly ever scored."""
    sampled, scored = Counter[str](), Counter[str]()
    for m in recent:
        sampled.update(m.facets_sampled)
        scored.update(m.facets_scored)
    groups = sum(m.groups_sampled or 0 for m in recent)
    if not groups:
        return ""
    share = sum(m.groups for m in recent) / groups
    few = [
        name
        for name, number in sampled.items()
        if number * share >= EXPECTED and scored[name] < STARVED * number * share
    ]
    if not few:
        return ""
    told = ", ".join(f"{name} ({scored[name]} of {sampled[name]})" for name in few[:3])
    more = f" and {len(few) - 3} more" if len(few) > 3 else ""
    return (
        f"In the last {len(recent)} steps {share:.0%} of the groups were scored, but of these kinds of "
        f"prompt hardly any: {told}{more}. Their answers differ least, so grpo.oversample passes them over, "
        "and the policy is hardly trained on them. Read some; where they are not yet good, lower "
        "grpo.oversample or raise rollout.temperature."
    )


def _content_loss(history: Sequence[StepMetrics]) -> str:
    """Whether answers shrank and lost the prompt's content while the reward rose."""
    then, now = (_content(steps) for steps in (history[:WINDOW], history[-WINDOW:]))
    rewards = [_known(m.reward_mean for m in steps) for steps in (history[:WINDOW], history[-WINDOW:])]
    if rewards[0] is None or rewards[1] is None:
        return ""
    return content_loss(then, now, (rewards[0], rewards[1]))


def _content(steps: Sequence[StepMetrics]) -> Content:
    return Content(
        tokens=fmean(m.tokens_mean for m in steps),
        kept=_known(m.kept_share for m in steps),
        by_length=_known(m.by_length for m in steps),
    )


def _known(values: Iterable[float | None]) -> float | None:
    """The mean of those that there are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _distinct(steps: Sequence[StepMetrics]) -> float | None:
    """The mean share of answers that belong to one prompt alone, over the steps that have one."""
    return _known(m.distinct_share for m in steps)


def require_hours(hours: float | None, position: Position, steps: int) -> None:
    """Raises GuardStop where the hours of training are used up and some of the `steps` are left."""
    if hours is not None and position.seconds > hours * 3600 and position.step < steps:
        raise GuardStop(
            "budget",
            f"Step {position.step}: the {hours:g} hours of budget.hours are used up.",
            "Raise budget.hours and go on with --resume.",
            limit=2 * position.seconds / 3600,
        )

"""The numbers of every training step that have a chart, and what good looks like in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_rl.report.standing import Json


def key(name: str) -> Callable[[Json], float | None]:
    return lambda m: m.get(name)


def _share_of_groups(count: str) -> Callable[[Json], float | None]:
    return lambda m: m.get(count, 0) / m["groups"] if m["groups"] else None


def _share_of_sampled(m: Json) -> float | None:
    return m.get("groups_alike", 0) / m["groups_sampled"] if m.get("groups_sampled") else None


def _some(name: str) -> Callable[[Sequence[Json]], bool]:
    """Whether a quantity is ever anything but 0 or absent."""
    return lambda metrics: any(m.get(name) for m in metrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number of every training step; `is_shown` says of which runs."""

    name: str
    title: str
    good: str
    value: Callable[[Json], float | None]
    unit: bool = False
    smooth: bool = True
    is_shown: Callable[[Sequence[Json]], bool] = lambda metrics: True


GRADIENT = "Good: the same size throughout. A spike is one strange step; growth without end, too high a rate."
RATE = "Good: as planned. It is what the schedule makes of the setting."
QUANTITIES: dict[str, tuple[Quantity, ...]] = {
    "learning": (
        Quantity(
            name="distinct",
            title="Share of answers that no other prompt got",
            good="Good: near 1 where prompts ask for different things. A fall says that one answer serves "
            "all.",
            value=key("distinct_share"),
            unit=True,
        ),
        Quantity(
            name="kept",
            title="Share of the prompt’s words that answers keep",
            good="Good: level, where answers are to keep what the prompt says. A fall with a rising reward "
            "is content that was dropped.",
            value=key("kept_share"),
            unit=True,
        ),
        Quantity(
            name="turns",
            title="Turns of a trajectory, mean",
            good="Good: what the task wants: fewer where a goal ends it, more where turns are needed.",
            value=key("turns_mean"),
        ),
        Quantity(
            name="ended-by-limit",
            title="Share of trajectories that a limit ended",
            good="Good: falls. High, the turns or tokens do not suffice.",
            value=lambda m: m["ends"].get("limit", 0.0) if m.get("ends") else None,
            unit=True,
        ),
    ),
    "health": (
        Quantity(
            name="no-spread",
            title="Share of groups without spread",
            good="Good: low. A group whose answers all earn the same teaches nothing: that share of the "
            "sampling is wasted. High from the start, the task is too hard or too easy; high at the end, it "
            "is learnt.",
            value=_share_of_groups("groups_zero_variance"),
            unit=True,
        ),
        Quantity(
            name="alike",
            title="Share of sampled groups of one text",
            good="Good: low. They are not scored; where most are, there is little to choose from.",
            value=_share_of_sampled,
            unit=True,
            is_shown=_some("groups_sampled"),
        ),
        Quantity(
            name="by-steps",
            title="Share of groups told apart by their steps",
            good="Good: above 0 where rewards tie: the graded steps help.",
            value=_share_of_groups("groups_by_steps"),
            unit=True,
            is_shown=_some("groups_by_steps"),
        ),
        Quantity(
            name="missing",
            title="Share of groups with a missing score",
            good="Good: 0. A missing score is a judge, a tool or a function that failed; see Events.",
            value=_share_of_groups("groups_missing"),
            unit=True,
            is_shown=_some("groups_missing"),
        ),
        Quantity(
            name="world-failed",
            title="Share of trajectories whose world failed",
            good="Good: 0. The world raised an error, or took too long; see Events.",
            value=lambda m: m["ends"].get("failed", 0.0) if m.get("ends") else None,
            unit=True,
            is_shown=lambda metrics: any((m.get("ends") or {}).get("failed") for m in metrics),
        ),
        Quantity(
            name="kl",
            title="KL to the reference, nats a token",
            good="Good: grows slowly and levels off. A sudden climb with a rising reward is where tricks "
            "begin.",
            value=key("kl"),
        ),
        Quantity(
            name="kl-coefficient",
            smooth=False,
            title="KL coefficient",
            good="Good: settles. It rises while the KL is above its aim.",
            value=key("kl_coefficient"),
            is_shown=lambda metrics: len({m.get("kl_coefficient") for m in metrics}) > 1,
        ),
        Quantity(
            name="entropy",
            title="Entropy, nats a token",
            good="Good: falls slowly and stays above 0. At 0 all answers of a group are the same, and "
            "nothing is learnt any more.",
            value=key("entropy"),
        ),
        Quantity(
            name="length",
            title="Completion length, tokens",
            good="Good: settles at what the task needs. Growth to the limit, or a collapse to a few tokens, "
            "is a reward that length buys.",
            value=key("tokens_mean"),
        ),
        Quantity(
            name="cut",
            title="Share cut at the token limit",
            good="Good: near 0. What is cut is scored without its end: raise rollout.max_tokens.",
            value=key("clipped_share"),
            unit=True,
        ),
        Quantity(
            name="by-length",
            title="How far rewards follow from lengths alone",
            good="Good: near 0 or below. Near 1 the length decides the reward.",
            value=key("by_length"),
            is_shown=_some("by_length"),
        ),
        Quantity(
            name="grad-norm", title="Gradient norm before clipping", good=GRADIENT, value=key("grad_norm")
        ),
        Quantity(
            name="loss",
            title="Policy loss",
            good="Neither good nor bad: in policy gradients it is no measure of progress. Finite, it is "
            "well.",
            value=key("loss"),
        ),
        Quantity(
            name="clip-share",
            title="Share of tokens outside the clip range",
            good="Good: a few per cent at most. High, the weights move too far between sampling and update.",
            value=key("clip_share"),
            unit=True,
            is_shown=_some("clip_share"),
        ),
        Quantity(
            name="updates",
            title="Optimizer steps a step",
            good="Good: several, and level. One alone: grpo.kl_stop ends each step at once, and a lower "
            "learning rate would use the answers more often.",
            value=key("updates"),
            is_shown=lambda metrics: len({m.get("updates") for m in metrics}) > 1,
        ),
        Quantity(
            name="moved-kl",
            title="From the policy that sampled, at the end of a step, nats a token",
            good="Good: at or below grpo.kl_stop. Far above it, a single optimizer step goes too far: lower "
            "the learning rate.",
            value=key("moved_kl"),
            is_shown=_some("moved_kl"),
        ),
        Quantity(
            name="teacher-kl",
            title="From the teacher, nats a token",
            good="Good: falling. Level and high, the policy cannot write what the teacher would, or the "
            "learning rate is too low.",
            value=key("teacher_kl"),
            is_shown=_some("teacher_kl"),
        ),
        Quantity(
            name="importance-mean",
            title="Importance weight before it is cut, mean",
            good="Good: near 1. Far from it, sampler and trainer are no longer the same policy.",
            value=key("importance_mean"),
        ),
        Quantity(
            name="importance-max",
            title="Importance weight before it is cut, largest",
            good="Good: single digits. What is larger is cut.",
            value=key("importance_max"),
        ),
        Quantity(
            name="mismatch",
            title="Trainer against sampler, nats a token",
            good="Good: level, and as small as rounding. Growth is a sampler that no longer has the "
            "trainer’s weights; the guard stops that.",
            value=key("mismatch_mean"),
        ),
    ),
    "cost": (
        Quantity(
            name="tokens-per-second",
            title="Sampled tokens a second",
            good="Good: level. It falls with longer answers, and on a machine that others use too.",
            value=key("tokens_per_second"),
        ),
    ),
}

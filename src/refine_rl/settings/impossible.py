"""Combinations of settings that cannot be, across the tables: when, why, and the way out.

What one table's own keys exclude stands in that table's file, in the same form.
"""

from __future__ import annotations

from typing import Any

from refine_rl.settings.base import Impossible
from refine_rl.settings.grpo import MASKS
from refine_rl.settings.teacher import BESIDE_OTHERS

Whole = Any  # Settings, which import this table

_TELLS_SOLVED = ("sign", "steps")  # values of grpo.flat that ask whether a group is solved
_NEEDS_WRITER = 'needs `writer.model = "ENDPOINT/MODEL"`'
_NEEDS_JUDGES = 'needs `reward.judges = ["ENDPOINT/MODEL"]`'
_ABSOLUTE = 'use `judge.kind = "absolute"`'


def _judges_compare(it: Whole) -> bool:
    return bool(it.reward.judges) and it.judge.kind != "absolute"


def _kl_in_reward(it: Whole) -> bool:
    return bool(it.grpo.kl) and str(it.grpo.kl_in) == "reward"


def _exits(it: Whole) -> bool:
    return it.rollout.early_exit is not None


def _duels(it: Whole) -> bool:
    return "win_rate" in it.evaluate.metrics


def _eyed(it: Whole) -> bool:
    return bool(it.evaluate.on_drift != "off")


def _tinker(it: Whole) -> bool:
    return str(it.engine.kind) == "tinker"


def _looks(it: Whole) -> int:
    return int(it.judge.repeats) * len(it.reward.judges)


def _one_step(grpo: Whole) -> bool:
    """Whether a step has one optimizer step; not where grpo.thrifty is yet to give it more."""
    to_come = grpo.thrifty and not {"minibatches", "updates_per_step"} <= grpo.model_fields_set
    return bool(grpo.updates_per_step * grpo.minibatches == 1 and not to_come)


_UPDATES: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.grpo.warmup_steps > it.grpo.steps,
        why="`grpo.warmup_steps` is larger than `grpo.steps`",
    ),
    Impossible(
        when=lambda it: it.grpo.advantage == "gdpo" and it.reward.combine == "product",
        why='`grpo.advantage = "gdpo"` sums components',
        way_out='use `reward.combine = "sum"`',
    ),
    Impossible(
        when=lambda it: it.grpo.advantage == "gdpo" and _kl_in_reward(it),
        why='`grpo.advantage = "gdpo"` normalises components',
        way_out='use `grpo.kl_in = "loss"`',
    ),
    Impossible(
        when=lambda it: it.grpo.kl_target is not None and it.grpo.kl == 0,
        why="`grpo.kl_target` needs a coefficient to start from",
        way_out="set `grpo.kl` above 0",
    ),
    Impossible(
        when=lambda it: it.grpo.kl_in == "reward" and it.grpo.kl == 0,
        why='`grpo.kl_in = "reward"` does nothing without a coefficient',
        way_out="set `grpo.kl` above 0",
    ),
    Impossible(
        when=lambda it: (
            it.grpo.loss == "sapo" and not (it.grpo.clip_low is None and it.grpo.clip_high is None)
        ),
        why='`grpo.loss = "sapo"` does not clip',
        way_out="leave `grpo.clip_low` and `grpo.clip_high` out",
    ),
    Impossible(
        when=lambda it: it.grpo.advantage == "maxrl" and _judges_compare(it),
        why='`grpo.advantage = "maxrl"` weighs prompts by how hard they are, and judges that compare '
        "cannot say so",
        way_out=_ABSOLUTE,
    ),
    Impossible(
        when=lambda it: it.grpo.advantage == "maxrl" and _kl_in_reward(it),
        why='`grpo.advantage = "maxrl"` needs rewards of 0 and more, and `grpo.kl_in = "reward"` takes from '
        "them",
        way_out='use `grpo.kl_in = "loss"`',
    ),
    Impossible(
        when=lambda it: it.grpo.advantage == "maxrl" and it.reward.overlong is not None,
        why='`grpo.advantage = "maxrl"` needs rewards of 0 and more, and `reward.overlong` takes from them',
        way_out="leave one of them out",
    ),
    Impossible(
        when=lambda it: it.grpo.loss in MASKS and it.grpo.importance_cap is not None,
        why='`grpo.loss = "{it.grpo.loss}"` bounds the distance to the policy that sampled, and '
        "`grpo.importance_cap` has the ratio to another",
        way_out="leave `grpo.importance_cap` out",
    ),
    Impossible(
        when=lambda it: it.grpo.importance_cap is not None and it.model.dropout > 0,
        why="`grpo.importance_cap` compares log-probs that dropout disturbs",
        way_out="set `model.dropout = 0`",
    ),
    Impossible(
        when=lambda it: it.prompts.pool == "curriculum" and _judges_compare(it) and not it.judge.gate,
        why='`prompts.pool = "curriculum"` draws prompts whose groups differ, and judges that compare tell '
        "the answers of every group apart",
        way_out='use `prompts.pool = "all"`, `judge.kind = "absolute"`, or a `judge.gate`',
    ),
    Impossible(
        when=lambda it: it.grpo.flat == "sign" and it.prompts.pool == "curriculum",
        why='`grpo.flat = "sign"` trains on groups without spread, and `prompts.pool = "curriculum"` avoids '
        "them",
        way_out='use `prompts.pool = "all"`, or another `grpo.flat`',
    ),
    Impossible(
        when=lambda it: it.grpo.resample > 0 and it.rollout.ahead == 1,
        why="`grpo.resample` waits for the rewards of a step",
        way_out="use `rollout.ahead = 0`",
    ),
)

_THRIFT: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.grpo.kl_stop is not None and _one_step(it.grpo),
        why="`grpo.kl_stop` is looked at before the second optimizer step of a step, and there is one",
        way_out="set `grpo.updates_per_step` or `grpo.minibatches` above 1, or leave it out",
    ),
    Impossible(
        when=lambda it: it.grpo.kl_stop is not None and it.model.dropout > 0,
        why="`grpo.kl_stop` compares log-probs that dropout disturbs",
        way_out="set `model.dropout = 0`",
    ),
    Impossible(
        when=lambda it: it.grpo.minibatches > it.grpo.prompts_per_step,
        why="`grpo.minibatches` is {it.grpo.minibatches}, and a step has only {it.grpo.prompts_per_step} "
        "groups to share out (`grpo.prompts_per_step`)",
        way_out="lower it",
    ),
    Impossible(
        when=lambda it: it.grpo.oversample > 1 and it.grpo.resample > 0,
        why="`grpo.oversample` chooses groups before they are scored, and `grpo.resample` replaces them "
        "afterwards",
        way_out="leave one out",
    ),
    Impossible(
        when=lambda it: it.grpo.oversample > 1 and _exits(it),
        why="`grpo.oversample` looks for answers that differ, and those of `rollout.early_exit` are one "
        "thought, cut",
        way_out="leave one out",
    ),
)

_FLAT_GROUPS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.grpo.flat in _TELLS_SOLVED and it.grpo.solved is None,
        why='`grpo.flat = "{it.grpo.flat}"` needs `grpo.solved`, the reward from which a group is solved',
    ),
    Impossible(
        when=lambda it: it.grpo.flat not in _TELLS_SOLVED and it.grpo.solved is not None,
        why='`grpo.solved` is for `grpo.flat = "sign"` or `"steps"` alone',
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: it.grpo.flat in _TELLS_SOLVED and _judges_compare(it),
        why='`grpo.flat = "{it.grpo.flat}"` asks whether a group is solved, and judges that compare cannot '
        "say so",
        way_out=_ABSOLUTE,
    ),
    Impossible(
        when=lambda it: it.grpo.flat == "steps" and it.reward.steps is None,
        why='`grpo.flat = "steps"` needs the table `[reward.steps]`, which says what grades them',
    ),
    Impossible(
        when=lambda it: it.grpo.flat != "steps" and it.reward.steps is not None,
        why='`reward.steps` grades for `grpo.flat = "steps"` alone',
        way_out="set that, or leave the table out",
    ),
    Impossible(
        when=lambda it: it.grpo.flat == "steps" and it.grpo.resample > 0,
        why='`grpo.resample` replaces the groups that `grpo.flat = "steps"` grades',
        way_out="leave one out",
    ),
    Impossible(
        when=lambda it: it.grpo.flat == "steps" and it.grpo.advantage == "gdpo",
        why='`grpo.flat = "steps"` has no component for `grpo.advantage = "gdpo"` to normalise',
        way_out="use another advantage",
    ),
    Impossible(
        when=lambda it: it.grpo.flat == "steps" and _kl_in_reward(it),
        why='`grpo.kl_in = "reward"` tells the answers of every group apart, so that none is left for '
        '`grpo.flat = "steps"`',
        way_out='use `grpo.kl_in = "loss"`',
    ),
)

_EARLY_EXITS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: (
            it.rollout.early_exit is not None and it.rollout.early_exit.answer_tokens >= it.rollout.max_tokens
        ),
        why="`rollout.early_exit.answer_tokens` leaves no room for a thought",
        way_out="it must be below `rollout.max_tokens`",
    ),
    Impossible(
        when=lambda it: _exits(it) and _judges_compare(it),
        why="`rollout.early_exit` asks whether an answer is right, and judges that compare cannot say so",
        way_out=_ABSOLUTE,
    ),
    Impossible(
        when=lambda it: _exits(it) and it.reward.overlong is not None,
        why="`rollout.early_exit` pays short thoughts itself",
        way_out="leave `reward.overlong` out",
    ),
    Impossible(
        when=lambda it: _exits(it) and it.grpo.advantage == "gdpo",
        why='`rollout.early_exit` pays by the order of the right answers, and `grpo.advantage = "gdpo"` '
        "looks at components alone",
        way_out="use another advantage",
    ),
    Impossible(
        when=lambda it: _exits(it) and it.grpo.flat == "steps",
        why='`grpo.flat = "steps"` tells answers apart by their steps, and those of early exits are the same',
        way_out="leave one of `rollout.early_exit` and `grpo.flat` out",
    ),
    Impossible(
        when=lambda it: _exits(it) and it.prompts.probe > 0,
        why="`prompts.probe` would set prompts aside that are always solved, and `rollout.early_exit` still "
        "learns from them",
        way_out="leave it out",
    ),
)

_ENVIRONMENTS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.reward.world is not None and not it.rollout.environment,
        why="`reward.world` counts the rewards of an environment",
        way_out='name one in `rollout.environment = "FILE.py:NAME"`, or leave the table out',
    ),
    Impossible(
        when=lambda it: it.rollout.several_turns and it.grpo.flat == "steps",
        why='`grpo.flat = "steps"` grades the steps of a single answer, and `rollout.environment` and '
        "`rollout.tools` have turns",
        way_out="leave one of them out",
    ),
    Impossible(
        when=lambda it: it.rollout.several_turns and bool(it.reward.sanity),
        why="`reward.sanity` has single answers, and with `rollout.environment` or `rollout.tools` "
        "rewards are for what happened",
        way_out="leave the cases out",
    ),
)

_LLMS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.prompts.source == "writer" and not it.writer.model,
        why=f'`prompts.source = "writer"` {_NEEDS_WRITER}',
    ),
    Impossible(
        when=lambda it: it.reward.rubric == "write" and not it.writer.model,
        why=f'`reward.rubric = "write"` {_NEEDS_WRITER}',
    ),
    Impossible(
        when=lambda it: bool(it.reward.rubric) and not it.reward.judges,
        why=f"`reward.rubric` {_NEEDS_JUDGES}",
    ),
    Impossible(
        when=lambda it: bool(it.evaluate.judge) and not (it.reward.judges or _duels(it) or _eyed(it)),
        why=f'`evaluate.judge` {_NEEDS_JUDGES}, `evaluate.metrics = ["win_rate"]`, or `evaluate.on_drift`',
    ),
    Impossible(
        when=lambda it: bool(it.evaluate.rubric) and not _eyed(it),
        why="`evaluate.rubric` is what another eye judges validation answers by, and none looks",
        way_out='set `evaluate.on_drift = "warn"`',
    ),
    Impossible(
        when=lambda it: bool(it.evaluate.rubric) and not (it.reward.judges or it.evaluate.judge),
        why="`evaluate.rubric` is a text for judges",
        way_out='name one in `evaluate.judge = "ENDPOINT/MODEL"`',
    ),
    Impossible(
        when=lambda it: _eyed(it) and not (it.grpo.validate_every and it.prompts.validation != 0),
        why="`evaluate.on_drift` looks at validations, and there are none",
        way_out="set `grpo.validate_every` and `prompts.validation` above 0",
    ),
    Impossible(
        when=lambda it: _duels(it) and not (it.reward.judges or it.evaluate.judge),
        why='`evaluate.metrics` has "win_rate", which a judge decides',
        way_out='name one in `evaluate.judge = "ENDPOINT/MODEL"`',
    ),
    Impossible(
        when=lambda it: bool(it.reward.judges) and it.judge.adaptive and _looks(it) < 3,
        why="`judge.adaptive` saves looks after the second",
        way_out="set `judge.repeats` to 3 or more",
    ),
    Impossible(
        when=lambda it: _looks(it) == 1 and bool(it.judge.larger),
        why="`judge.larger` acts on how far looks agree",
        way_out="set `judge.repeats` to 2 or more, or name several judges",
    ),
    Impossible(
        when=lambda it: _looks(it) == 1 and it.judge.shrink and not it.judge.larger,
        why="`judge.shrink` acts on how far looks agree",
        way_out="set `judge.repeats` to 2 or more, or name several judges",
    ),
)

_SFT: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.sft is not None and it.sft_model.adapter == "none" and it.sft.dropout,
        why="`sft.dropout` is the adapter's, and `sft.adapter` or `model.adapter` says that there is none",
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: it.sft is not None and it.sft.optimizer == "muon" and it.sft_model.adapter != "none",
        why='`sft.optimizer = "muon"` trains whole weight matrices',
        way_out='use `sft.adapter = "none"`',
    ),
)

_SHARD: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.engine.shard and (it.model.adapter != "lora" or it.sft_model.adapter != "lora"),
        why="`engine.shard` spreads frozen weights that are not quantised, below an adapter that is trained: "
        '`model.adapter` and `sft.adapter` must be "lora"',
        way_out="use that, or leave it out",
    ),
)

_VLLM: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: it.engine.kind == "vllm" and not it.model.adapted,
        why='`engine.kind = "vllm"` gives the server an adapter each step, and `model.adapter = "none"` has '
        "none",
        way_out='use `model.adapter = "lora"`',
    ),
    Impossible(
        when=lambda it: it.engine.kind == "vllm" and it.model.dropout > 0,
        why='`engine.kind = "vllm"` weighs tokens by log-probs that `model.dropout` disturbs',
        way_out="set it to 0",
    ),
    Impossible(
        when=lambda it: (
            it.engine.kind == "vllm"
            and it.rollout.temperature != 1
            and (it.rollout.top_p < 1 or it.rollout.top_k > 0)
        ),
        why='`engine.kind = "vllm"` has log-probs of all tokens at `rollout.temperature = 1` alone where '
        "`rollout.top_p` or `rollout.top_k` leave tokens out",
        way_out="use that temperature, or leave them out",
    ),
)

_AT_A_SERVICE = 'a service of `engine.kind = "tinker"`'
_LEAVE = 'leave it out, or use `engine.kind = "local"`'

_TINKER: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: _tinker(it) and (it.model.adapter != "lora" or it.sft_model.adapter != "lora"),
        why=f"`model.adapter` and `sft.adapter`: {_AT_A_SERVICE} trains a LoRA adapter and nothing else",
        way_out=_LEAVE,
    ),
    Impossible(
        when=lambda it: _tinker(it) and it.model.alpha != 32,
        why=f"`model.alpha` is {{it.model.alpha:g}}, and {_AT_A_SERVICE} has 32, whatever the rank",
        way_out=_LEAVE,
    ),
    Impossible(
        when=lambda it: _tinker(it) and (it.model.dropout > 0 or it.sft_model.dropout > 0),
        why=f"`model.dropout` and `sft.dropout`: {_AT_A_SERVICE} has no dropout",
        way_out="set them to 0",
    ),
    Impossible(
        when=lambda it: _tinker(it) and it.model.targets != "all-linear",
        why=f"`model.targets`: {_AT_A_SERVICE} puts the adapter on all linear layers",
        way_out=_LEAVE,
    ),
    Impossible(
        when=lambda it: _tinker(it) and bool(it.model.start),
        why=f"`model.start` is a folder on this machine, and {_AT_A_SERVICE} cannot begin with it",
        way_out='merge it (refine export) and have the service offer that, or use `engine.kind = "local"`',
    ),
    Impossible(
        when=lambda it: _tinker(it) and it.model.gradient_checkpointing,
        why=f"`model.gradient_checkpointing` is the affair of {_AT_A_SERVICE}",
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: (
            _tinker(it)
            and not (it.rollout.temperature == 1 and it.rollout.top_p == 1 and it.rollout.top_k == 0)
        ),
        why=f"`rollout.temperature`, `rollout.top_p` and `rollout.top_k`: {_AT_A_SERVICE} gives log-probs of "
        "the whole distribution at temperature 1 alone, and answers drawn otherwise would be trained wrongly",
        way_out="leave them out",
    ),
    Impossible(
        when=lambda it: _tinker(it) and it.budget.dollars is not None and it.engine.prices is None,
        why="`budget.dollars` needs to know what the service takes",
        way_out="set `engine.prices`",
    ),
)

_FINE_TUNED = "sft"

_RIVALS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: bool(it.evaluate.rivals) and _tinker(it),
        why=f"`evaluate.rivals`: {_AT_A_SERVICE} would be paid for their answers, which no estimate counts",
        way_out="leave them out, and make one on this machine afterwards: refine eval RUN --rivals best_of_n",
    ),
    Impossible(
        when=lambda it: _FINE_TUNED in it.evaluate.rivals and it.sft is not None,
        why='`evaluate.rivals` has "sft", and the model after the fine-tuning of [sft] is compared already, '
        "under that name",
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: _FINE_TUNED in it.evaluate.rivals and it.engine.kind in ("processes", "vllm"),
        why='`evaluate.rivals` has "sft", which is trained in this process, beside the model of '
        '`engine.kind = "{it.engine.kind}"`',
        way_out="leave it out, and make it afterwards: refine eval RUN --rivals sft",
    ),
    Impossible(
        when=lambda it: _FINE_TUNED in it.evaluate.rivals and it.rollout.several_turns,
        why='`evaluate.rivals` has "sft", which imitates single answers, and `rollout.environment` and '
        "`rollout.tools` have turns",
        way_out="leave it out",
    ),
)

IMPOSSIBLE = (
    *(_UPDATES + _THRIFT + _FLAT_GROUPS + _EARLY_EXITS + _ENVIRONMENTS + _LLMS + _SFT + _SHARD),
    *(_VLLM + _TINKER + _RIVALS + BESIDE_OTHERS),
)
"""All of them, in the order in which they are told."""

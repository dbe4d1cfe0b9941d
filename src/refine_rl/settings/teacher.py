"""[teacher]: a model whose words the policy learns to prefer, token by token."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from refine_rl.settings.base import Impossible, Positive, Section


class TeacherSettings(Section):
    """[teacher]: on-policy distillation (arXiv 2306.13649; Thinking Machines 2025). The policy answers, the
    teacher says how likely it would have written each of its tokens: A = log p - log q of a token, p the
    teacher's probability and q the policy's when it was sampled. Not without this table."""

    model: str
    """The teacher: the folder of a finished run (its tuned model), a model's folder, a hub id (as
    model.name), or "tiny"; or with `base_url` the model's name at the server. It must have the policy's
    tokenizer. "self": the policy itself, with the weights that answered and without a second model in
    memory, but `shown` more."""
    shown: Literal["", "reason", "best"] = ""
    """What `model = "self"` is shown behind the prompt (arXiv 2601.20802). "reason": what the rewards say of
    this very answer, a judge's reasons among it. "best": the best answer of the group; those that nothing is
    better than are not taught. An answer that is not taught has its advantage by rewards, whole."""
    base_url: str = ""
    """A vLLM server that has the teacher, such as "http://127.0.0.1:8000/v1"; it must give log-probs of a
    prompt (`prompt_logprobs`), which most services do not. Without it, the teacher is loaded in this process,
    beside the policy."""
    key_env: str = ""
    """The environment variable that holds the server's key; without it none is sent."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the log-probs of one answer may take at the server."""
    concurrency: Positive = 32
    """Answers that the server is asked about at once."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A token's advantage is (1 - share) times that of its answer, by rewards, and share times the teacher's.
    At 1 rewards are measured and teach nothing; none is needed then."""

    impossible: ClassVar[tuple[Impossible[TeacherSettings], ...]] = (
        Impossible(
            when=lambda it: it.itself and it.served,
            why='`model = "self"` is the policy, and `base_url` a server that has a teacher',
            way_out="leave one out",
        ),
        Impossible(
            when=lambda it: it.itself and not it.shown,
            why='`model = "self"` says of an answer what the policy does, unless it is shown more',
            way_out='add `shown = "reason"` or `shown = "best"`',
        ),
        Impossible(
            when=lambda it: bool(it.shown) and not it.itself,
            why='`shown` is for `model = "self"`: another teacher reads what the policy reads',
            way_out="leave it out, or set that",
        ),
        Impossible(
            when=lambda it: not it.model.strip(),
            why="`model` is empty: name the folder of a run or a model, a hub id, or a server's model",
        ),
        Impossible(
            when=lambda it: bool(it.key_env) and not it.base_url,
            why="`key_env` is the key of a server, and `base_url` names none",
            way_out="set that, or leave `key_env` out",
        ),
    )

    @property
    def itself(self) -> bool:
        """Whether the policy is its own teacher."""
        return self.model == "self"

    @property
    def words(self) -> str:
        """What the policy is shown that is its own teacher."""
        what = "what the rewards say of its answer" if self.shown == "reason" else "its group's best answer"
        return f"the policy itself, shown {what}"

    @property
    def served(self) -> bool:
        """Whether a server computes it."""
        return bool(self.base_url)


Whole = Any  # Settings, which import this table
_SEQUENCES = ("gspo", "luspo")  # losses with one ratio an answer


def _taught(it: Whole) -> bool:
    return it.teacher is not None


def _itself(it: Whole) -> bool:
    return it.teacher is not None and bool(it.teacher.itself)


BESIDE_OTHERS: tuple[Impossible[Whole], ...] = (
    Impossible(
        when=lambda it: (
            _taught(it)
            and not (it.rollout.temperature == 1 and it.rollout.top_p == 1 and it.rollout.top_k == 0)
        ),
        why="`teacher` is held against the policy itself, and `rollout.temperature`, `rollout.top_p` or "
        "`rollout.top_k` have its tokens drawn from another distribution",
        way_out="leave them out",
    ),
    Impossible(
        when=lambda it: _taught(it) and it.grpo.loss in _SEQUENCES,
        why='`grpo.loss = "{it.grpo.loss}"` has one ratio for a whole answer, and `teacher` tells its tokens '
        "apart",
        way_out="use another loss",
    ),
    Impossible(
        when=lambda it: _taught(it) and it.grpo.replay > 0,
        why="`grpo.replay` repeats answers that were better than their group, and `teacher` judges tokens",
        way_out="leave one out",
    ),
    Impossible(
        when=lambda it: _taught(it) and it.grpo.resample > 0,
        why="`grpo.resample` replaces groups of equal rewards, and `teacher` teaches by them as well",
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: (
            _taught(it) and not _itself(it) and it.teacher.share == 1 and it.grpo.flat in ("sign", "steps")
        ),
        why='`grpo.flat = "{it.grpo.flat}"` gives answers an advantage, and with `teacher.share = 1` the '
        "teacher's is the only one",
        way_out="leave it out, or lower the share",
    ),
    Impossible(
        when=lambda it: _itself(it) and (it.rollout.several_turns or it.rollout.early_exit is not None),
        why='`teacher.model = "self"` is shown more behind the one prompt of an answer, and `rollout` has '
        "answers of several turns, or of parts",
        way_out="leave one out",
    ),
    Impossible(
        when=lambda it: _itself(it) and it.rollout.ahead == 1,
        why='`teacher.model = "self"` is asked with the weights that sampled, and with `rollout.ahead = 1` '
        "these have moved by then",
        way_out="leave it out",
    ),
    Impossible(
        when=lambda it: _itself(it) and it.engine.kind == "tinker",
        why='`teacher.model = "self"` reads each answer once more, and what that costs at the service of '
        '`engine.kind = "tinker"` is not counted',
        way_out="use another engine",
    ),
)
"""What cannot be with a teacher, across the tables (impossible.py)."""

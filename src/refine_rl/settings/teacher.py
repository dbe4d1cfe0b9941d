"""[teacher]: a model whose words the policy learns to prefer, token by token."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from refine_rl.settings.base import Impossible, Positive, Section


class TeacherSettings(Section):
    """[teacher]: on-policy distillation (arXiv 2306.13649; Thinking Machines 2025). The policy answers, the
    teacher says how likely it would have written each of its tokens: A = log p - log q of a token, p the
    teacher's probability and q the policy's when it was sampled. Not without this table."""

    model: str
    """The teacher: the folder of a finished run (its tuned model), a model's folder, a hub id, or "tiny"; or
    with `base_url` the model's name at the server. It must have the policy's tokenizer."""
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
    def served(self) -> bool:
        """Whether a server computes it."""
        return bool(self.base_url)


Whole = Any  # Settings, which import this table
_SEQUENCES = ("gspo", "luspo")  # losses with one ratio an answer


def _taught(it: Whole) -> bool:
    return it.teacher is not None


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
        when=lambda it: _taught(it) and it.teacher.share == 1 and it.grpo.flat in ("sign", "steps"),
        why='`grpo.flat = "{it.grpo.flat}"` gives answers an advantage, and with `teacher.share = 1` the '
        "teacher's is the only one",
        way_out="leave it out, or lower the share",
    ),
)
"""What cannot be with a teacher, across the tables (impossible.py)."""

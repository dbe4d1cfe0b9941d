"""A run's model: loaded, known to be the one with which the run began, its positions held still."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.build import engine_of
from refine_rl.envs.tools.tool import load_tools
from refine_rl.errors import UserError
from refine_rl.llm.ledger import Ledger
from refine_rl.policy.fingerprint import fingerprint
from refine_rl.policy.origin import find_origin
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer
from refine_rl.run import RunFolder
from refine_rl.settings import EngineSettings, RolloutSettings, TeacherSettings
from refine_rl.training.grpo.setup import learner_config
from refine_rl.types import Prompt

_FINE_TUNED = "fine_tuned_weights"
"""The part of a run's model that supervised fine-tuning made."""


def run_engine(
    folder: RunFolder,
    *,
    keep_reference: bool,
    record: bool = False,
    untouched: bool = False,
    ledger: Ledger | None = None,
) -> Engine:
    """The model with which the run's GRPO begins, where the run's settings want it. `untouched`: as it was
    before the supervised fine-tuning of a run that begins with that. Raises UserError where its files are
    others than when the run began (`record`: that they may be as long as nothing was scored). `ledger` gets
    what the calls of an engine cost that is a service."""
    loading, known = _loading(folder, keep_reference=keep_reference, record=record, untouched=untouched)
    settings = folder.settings()
    asked = settings.engine
    if asked.kind == "vllm" and folder.config.kind() == "sft":
        asked = EngineSettings(kind="local")  # nothing is sampled
    engine = engine_of(asked, loading, learner_config(settings), ledger)
    if not known:
        with closed_on_error(engine):
            require_same_model(folder, record=record)
    return engine


@contextmanager
def closed_on_error(engine: Engine) -> Iterator[None]:
    """Inside, whatever is raised closes the engine: other processes, and who serves it, are let go."""
    try:
        yield
    except BaseException:
        engine.close()
        raise


def run_policy(
    folder: RunFolder, *, adapter_from: Path | None = None, keep_reference: bool, untouched: bool = False
) -> Policy:
    """That model in this process; or with the adapter in `adapter_from`."""
    loading, known = _loading(
        folder, adapter_from=adapter_from, keep_reference=keep_reference, untouched=untouched
    )
    policy = loading.policy()
    if not known:
        require_same_model(folder)
    return policy


def _loading(
    folder: RunFolder,
    *,
    adapter_from: Path | None = None,
    keep_reference: bool,
    record: bool = False,
    untouched: bool = False,
) -> tuple[Loading, bool]:
    """What is to be loaded, and whether its files are known to be those with which the run began; where they
    are not, they are looked at once they have come from the hub."""
    settings = folder.settings()
    known = require_same_model(folder, record=record)
    model, seed = settings.model, settings.grpo.seed
    if settings.sft is not None and folder.config.kind() == "sft":
        model, seed = settings.sft_model, settings.sft.seed
    elif settings.sft is not None and not untouched:
        _require_fine_tuned(folder)
        model = model.model_copy(update={"start": str(folder.sft.path)})
    tools = load_tools(settings.rollout.tools, settings.folder) if settings.rollout.tools else {}
    loading = Loading(
        model=model,
        seed=seed,
        adapter_from=adapter_from,
        keep_reference=keep_reference,
        moment=folder.config.created(),
        tools=tuple(tool.schema for tool in tools.values()),
    )
    return loading, known


def require_same_model(folder: RunFolder, *, record: bool = False) -> bool:
    """Raises UserError where the base model's files are others than when the run began; False where they are
    not on this machine."""
    try:
        origin = find_origin(folder.settings().model.source)
    except UserError:  # loading it says so; and an adapter is exported without it
        return False
    hashes = fingerprint(origin)
    if hashes:
        hashes = {**hashes, **_fine_tuned(folder), **_teacher(folder.settings().teacher)}
    folder.config.require_same_model(hashes, folder.scored, record)
    return bool(hashes)


def _fine_tuned(folder: RunFolder) -> dict[str, str]:
    """The weights that supervised fine-tuning made, with which a run's GRPO begins, as one more part of its
    model: as they are, and where they are not there, as they were."""
    if folder.config.kind() == "sft" or folder.settings().sft is None:
        return {}
    known = folder.config.source().get("model", {}).get(_FINE_TUNED)
    found = folder.sft.model_sum() if folder.sft.ended else known
    return {} if found is None else {_FINE_TUNED: found}


def _teacher(teacher: TeacherSettings | None) -> dict[str, str]:
    """A teacher in this process, as one more part of a run's model; nothing where its files are not here."""
    if teacher is None or teacher.served or teacher.itself:
        return {}
    if (run := teaching_run(teacher)) is not None:
        return {"teacher": run.model_sum()}
    try:
        parts = fingerprint(find_origin(teacher.model, local_only=True))
    except UserError:  # loading it says so
        return {}
    return {"teacher": hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()} if parts else {}


def teaching_run(teacher: TeacherSettings) -> RunFolder | None:
    """The run whose tuned model teaches; None where it is another model."""
    run = RunFolder(Path(teacher.model).expanduser())
    return run if run.begun else None


def _require_fine_tuned(folder: RunFolder) -> None:
    """Raises UserError where the supervised fine-tuning with which a run begins is not done, is not what it
    made, or began with another base model."""
    if not folder.sft.ended:
        raise UserError(
            f"{folder.path} begins with supervised fine-tuning, and its model is not there as it was written "
            f"({folder.sft.model}). Put it back; or where the run is not finished, go on with it: "
            f"{folder.resume}"
        )
    require_same_model(folder.sft)


def hold_positions(
    rollout: RolloutSettings, engine: Engine, prompts: Sequence[Prompt], observer: Observer
) -> None:
    """Where the model's positions follow the longest text of a batch, they are held at what the longest of
    these prompts needs with an answer; base and tuned, sampler and trainer compute alike."""
    kinds = engine.policy.moving
    if not kinds:
        return
    longest = longest_text(rollout, engine.policy, prompts)
    if engine.hold_still(longest):
        observer.note(
            f"the model's positions follow the length of a text ({kinds}): all texts of the run are computed "
            f"as its long ones are, as some may have {longest} tokens"
        )


def longest_text(rollout: RolloutSettings, policy: Policy, prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest of these prompts with an answer; in an environment, as many as the model reads,
    as it says how long a trajectory becomes."""
    if rollout.several_turns:
        return policy.context_length
    return max((len(policy.encode(p.messages)) for p in prompts), default=0) + rollout.max_tokens

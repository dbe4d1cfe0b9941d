"""Config: a run's config.toml, which says by what settings it is made, where these came from, and with what
it began."""

from __future__ import annotations

import contextlib
import platform
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError, quoted
from refine_rl.run.files import read_text, replace, sha256
from refine_rl.run.from_python import PLACE, Names, call_to_resume
from refine_rl.settings import Settings
from refine_rl.settings.file import dump_settings, run_tables, settings_from_run
from refine_rl.settings.toml_write import dump_toml

CONFIG = "config.toml"
_PACKAGES = ("refine-rl", "torch", "transformers", "peft", "accelerate", "safetensors", "numpy")


class Config:
    """The file of a run, which is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._run = path  # as it was given, for words
        self.path = path / CONFIG  # which `refine train` takes as a task, to do it anew
        self._file = path.absolute() / CONFIG

    def settings(self) -> Settings:
        self._tables()  # names what was cut off
        return settings_from_run(read_text(self._file), self._run)

    def write(self, settings: Settings, source: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        tables = {"source": source, "versions": versions}
        replace(self._file, dump_settings(settings) + "\n" + dump_toml(tables))

    def save(self, settings: Settings) -> None:
        """Settings once resolved further (the number format) or overridden at a resume; where the run
        came from stays as it was."""
        self.write(settings, self.source(), self.versions())

    def note(self, **source: Any) -> None:
        """Puts on record more of what the run was made from."""
        self.write(self.settings(), {**self.source(), **source}, self.versions())

    def source(self) -> dict[str, Any]:
        """Where the settings came from, and hashes of what the run was made from."""
        return dict(self._tables()["source"])

    def asked_of_hub(self) -> dict[str, str]:
        """Where the settings have commits: what was asked for, a branch, a tag or the plain name, by key."""
        return dict(self.source().get("hub", {}))

    def versions(self) -> dict[str, str]:
        """Package versions at the start of the run."""
        return {k: str(v) for k, v in self._tables()["versions"].items()}

    def python_rewards(self) -> list[str]:
        """Names of reward functions that were given from Python, and so cannot be found from files."""
        return list(self.source().get("python_rewards", []))

    def kind(self) -> str:
        """What kind of run it is: "grpo", or "sft"."""
        return str(self.source().get("kind", "grpo"))

    def verb(self) -> str:
        """The command that began the run, and goes on with it."""
        return "sft" if self.kind() == "sft" else "train"

    def created(self) -> datetime:
        """When the run began; a chat template that asks for the time is told this one, always."""
        return datetime.fromisoformat(self.source()["created"])

    def _tables(self) -> dict[str, dict[str, Any]]:
        return run_tables(read_text(self._file), self._run)

    # -- whether all is as it was --------------------------------------------------------------

    def changes(self) -> list[str]:
        """What is not as it was when the run began, and may make a resume differ from an unbroken run."""
        then, now = self.versions(), versions_now(self.settings())
        return [
            f"{name} was {then.get(name, 'absent')} and is {now.get(name, 'absent')}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]

    def require_same_reward(self, scored: Callable[[str], bool]) -> None:
        """Raises UserError where a reward's file is another one than that which scored the base model.
        As long as "base" is not `scored`, a file may be mended freely."""
        now = reward_files(self.settings())
        changed = [n for n, sha in self.source().get("reward_files", {}).items() if now.get(n) != sha]
        if not changed:
            return
        if scored("base"):
            raise UserError(
                f"{', '.join(changed)} has changed since the base model was scored with it: base and tuned "
                f"would be measured by different rewards. Put it back; or start the training over, base "
                f"model included, with: {self.resume(step=0)}"
            )
        self.note(reward_files=now)

    def require_same_model(self, now: Mapping[str, str], scored: Callable[[str], bool], record: bool) -> None:
        """Raises UserError where a part of the base model (weights, tokenizer ...) has another hash in `now`
        than when the run began. `record`: as long as "base" is not `scored`, `now` is put on record."""
        then = self.source().get("model", {})
        if not now or now == then:  # empty: no files on this machine to compare
            return
        changed = [part for part in dict.fromkeys((*then, *now)) if then.get(part) != now.get(part)]
        if record and not (then and scored("base")):
            self.note(model=dict(now))
        elif then:
            names = [part.replace("_", " ") for part in changed]
            over = self.resume(step=0)
            raise UserError(
                f"The base model of {self._run} ({self.settings().model.called}) is another one than when "
                f"the run began; other are: {', '.join(names)}. What was trained and measured does not "
                "belong to it. Put its files back; or "
                + ("start a new run." if scored("tuned") else f"start the training over: {over}")
            )

    # -- how to go on -------------------------------------------------------------------------

    def given(self) -> Names:
        """The names of the code that was given from Python."""
        self._tables()  # names what is damaged
        rollout = tomllib.loads(read_text(self._file)).get("rollout", {})
        world, tools = rollout.get("environment") or "", rollout.get("tools", [])
        return Names(
            rewards=tuple(self.python_rewards()),
            environment=world.removeprefix(PLACE) if world.startswith(PLACE) else "",
            tools=tuple(tool.removeprefix(PLACE) for tool in tools if tool.startswith(PLACE)),
        )

    def resume(self, step: int | None = None, program: str = "refine") -> str:
        """The command that goes on with the run, back from the checkpoint of `step`; the call, where code was
        given from Python, which no command finds. `program` is how this one is called."""
        verb = self.verb()
        if verb == "train" and self.given().arguments:
            return self.call_to_resume("" if step is None else f"step={step}")
        back = "" if step is None else f" --from-step {step}"
        return f"{program} {verb} --resume {quoted(self._run)}{back}"

    def call_to_resume(self, *more: str) -> str:
        """The call that goes on with the run; `more` are further arguments."""
        own = "" if self.kind() == "sft" else self.given().arguments
        return call_to_resume(self.verb(), self._run, own, *more)


def versions_now(settings: Settings) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    others = [
        *(["bitsandbytes"] if settings.model.quantised else []),
        *(["reasoning-gym"] if settings.reasoning_gym is not None else []),
    ]
    for package in (*_PACKAGES, *others):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def where_from(settings: Settings, python_rewards: Sequence[str], kind: str) -> dict[str, Any]:
    """What the settings themselves do not say: where they came from, what the reward's files held, and what
    `kind` of run it is, where it is not GRPO."""
    return {
        **({} if kind == "grpo" else {"kind": kind}),
        "folder": str(settings.folder.resolve()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python_rewards": list(python_rewards),
        "reward_files": reward_files(settings),
    }


def reward_files(settings: Settings) -> dict[str, str]:
    """SHA-256 of each file that a reward function of the settings, the environment, or the rubric comes
    from."""
    specs = [f if isinstance(f, str) else f.function for f in settings.reward.functions]
    if settings.reward.steps is not None:
        specs.append(settings.reward.steps.function)
    if settings.rollout.environment:
        specs.append(settings.rollout.environment)
    specs += settings.rollout.tools
    files = {spec.rpartition(":")[0] for spec in specs} - {"python"}  # what was given from Python has none
    for rubric in (settings.reward.rubric, settings.evaluate.rubric):
        if rubric.startswith("file:"):
            files.add(rubric.removeprefix("file:"))
    return {
        file: sha256((settings.folder / file).read_bytes())
        for file in sorted(files)
        if (settings.folder / file).is_file()
    }

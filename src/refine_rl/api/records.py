"""What the verbs give back: short to look at in a terminal, a small table and a curve in a notebook."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from refine_rl.api import checks, html
from refine_rl.errors import UserError
from refine_rl.evaluate.seeds import told_of_seeds
from refine_rl.run import RunFolder
from refine_rl.run.files import write_whole
from refine_rl.run.seeds import SeedsFolder
from refine_rl.types import Comparison, Estimate, Prompt, decimals, one_line

if TYPE_CHECKING:
    from refine_rl.evaluate.versus import Versus
    from refine_rl.pipeline.check import Checked


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Finished:
    """What a finished run of either kind has. `folder` is where its files are."""

    folder: Path

    @property
    def model(self) -> Path:
        """The tuned model's folder, as transformers and peft load it."""
        return RunFolder(self.folder).model

    @property
    def report(self) -> Path:
        """The report, one self-contained page."""
        return RunFolder(self.folder).report

    @property
    def _verdict(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__} {self.folder}\n  {self._verdict}\n  report: {self.report}\n"
            f"  model:  {self.model}"
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Run(_Finished):
    """A finished GRPO run: `folder` has its files, `comparison` is base against tuned on held-out prompts."""

    comparison: Comparison

    @property
    def _verdict(self) -> str:
        return str(self.comparison)

    def _repr_html_(self) -> str:
        return html.run(RunFolder(self.folder), self.comparison)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SeedsRun(Sequence[Run]):
    """Finished GRPO runs that differ in their seed alone: a list of `Run` in the order of the seeds, in
    `folder`. `difference` is the mean over them of what tuned has more than base, with its 95 % interval over
    training seeds (None where fewer than two have one)."""

    folder: Path
    runs: tuple[Run, ...]
    difference: Estimate | None

    @property
    def report(self) -> Path:
        """The page of all runs, with links to their own."""
        return SeedsFolder(self.folder).report

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, place: int) -> Run: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Run, ...]: ...
    def __getitem__(self, place: int | slice) -> Run | tuple[Run, ...]:
        return self.runs[place]

    def __repr__(self) -> str:
        said = told_of_seeds(len(self), len(self), self.difference)
        lines = [f"  {run.folder.name}: {run.comparison}" for run in self.runs]
        return "\n".join(
            [f"{len(self)} seeds in {self.folder}", f"  {said}", *lines, f"  report: {self.report}"]
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SFTRun(_Finished):
    """A finished run of supervised fine-tuning. Losses are nats a token of the answers; `before` and `after`
    are those on the validation rows (None without any), `training` that of the last step."""

    before: float | None
    after: float | None
    training: float

    @property
    def _verdict(self) -> str:
        if self.before is None or self.after is None:
            return f"training loss {self.training:.4f}"
        return f"validation loss {self.before:.4f} -> {self.after:.4f}"

    def _repr_html_(self) -> str:
        return html.sft_run(RunFolder(self.folder), self._verdict)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Evaluation:
    """A comparison made again: `file` is where it stands in the run's folder `folder`."""

    folder: Path
    file: Path
    comparison: Comparison

    def __repr__(self) -> str:
        return f"Evaluation of {self.folder}\n  {self.comparison}\n  file: {self.file}"

    def _repr_html_(self) -> str:
        return html.evaluation(RunFolder(self.folder), self.comparison, self.file)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SideBySide:
    """Two tuned models beside one another: in `versus.comparison` A stands where base does, and B where tuned
    does. `file` is the record in A's folder, `page` the page beside it."""

    versus: Versus
    file: Path
    page: Path

    def __repr__(self) -> str:
        v = self.versus
        text = str(v.comparison).partition(": ")[2].replace("base ", "A ", 1).replace("tuned ", "B ", 1)
        return f"A {v.a.name}, B {v.b.name}: {v.standing}\n  {text}\n  file: {self.file}\n  page: {self.page}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RewardCheck:
    """What a reward made of example answers. `result` has every group with its answers and their scores
    (`result.groups[0].answers[0].score.value`)."""

    result: Checked

    @property
    def findings(self) -> list[str]:
        """What a person should look at, a sentence each; none where nothing looks wrong."""
        return [finding.text for finding in self.result.findings]

    @property
    def problem(self) -> str:
        """Why training could not begin so; "" where it could."""
        found = self.result.problem()
        return "" if found is None else str(found)

    def __repr__(self) -> str:
        lines = []
        for group in self.result.groups:
            lines.append(one_line(group.prompt.text, 100))
            for a in group.answers:
                value = "missing" if a.score.value is None else decimals(a.score.value)
                lines.append(f"  {value:>8}  {one_line(a.answer.text, 90)}  ({a.answer.kind})")
        told = [f"! {text}" for text in ([self.problem] if self.problem else self.findings)]
        return "\n".join([*lines, *told])


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PromptList(Sequence[Prompt]):
    """The prompts of a task, as training would take them: a list of `refine_rl.Prompt`, train first, then
    validation, then held_out. `summary` says where they came from and what was dropped; `calls` were made to
    their writer for `cost_usd` (None where a price is not known)."""

    prompts: tuple[Prompt, ...]
    summary: tuple[str, ...]
    calls: int
    cost_usd: float | None

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, place: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[place]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def of(self, split: str) -> list[Prompt]:
        """Those of a split: "train", "validation" or "held_out"."""
        return [prompt for prompt in self.prompts if prompt.split == split]

    def save(self, file: str | Path) -> Path:
        """Writes them to a new JSONL file, which `prompts="FILE"` and `refine train` read again. Raises
        UserError where it is there already."""
        checks.path("file", file, "a new file")
        path = Path(file).expanduser()
        if path.exists():
            raise UserError(f"{path} exists already; name a new file.")
        write_whole(path, "".join(json.dumps(dataclasses.asdict(prompt)) + "\n" for prompt in self.prompts))
        return path

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} prompts", *(f"  {line}" for line in self.summary)])

    def _repr_html_(self) -> str:
        return html.prompts(self.prompts, self.summary)

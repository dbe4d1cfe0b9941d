"""Evidence: what base and tuned did with prompts, how they compare, and what training made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refine_rl.errors import UserError, quoted
from refine_rl.run.checkpoints import write_folder
from refine_rl.run.files import Record, free, read_text
from refine_rl.run.records import comparison_from, comparison_text, outcome_from, outcome_record
from refine_rl.run.tables import Tables
from refine_rl.settings.evaluate import RIVALS
from refine_rl.types import Comparison, Outcome, Split

Loss = tuple[float, int]
"""Nats over a reference's tokens, and their number."""
_ANSWERED_BY: dict[str, Split] = {
    "base": "held_out",
    **dict.fromkeys(RIVALS, "held_out"),
    "tuned": "held_out",
    "validation": "validation",
    "probe": "train",
}


class Evidence(Tables):
    """The part of a run's folder that shows whether it worked."""

    @property
    def model(self) -> Path:
        """The tuned model's folder (it exists once training has ended)."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """The page (it is there from the first validation or checkpoint on)."""
        return self.path / "report.html"

    def write_model(self, write: Callable[[Path], None]) -> None:
        write_folder(self._root / self.model.name, write)

    def save_report(self, html: str) -> Path:
        self._replace(self.report.name, html)
        return self.report

    # -- answers ------------------------------------------------------------------------------

    def save_outcomes(self, which: str, outcomes: Sequence[Outcome]) -> None:
        """What a model did with the held-out prompts (`which`: "base" or "tuned", or of an eval)."""
        self.answers(which).replace(map(outcome_record, outcomes))

    def outcomes(self, which: str) -> list[Outcome] | None:
        """Outcomes saved before, or None where there are none. Raises UserError where one is lost."""
        answers = self.answers(which)
        if not answers.exists():
            return None
        by_id = {p.id: p for p in self.prompts()}
        found = [outcome_from(record, by_id) for record in answers.lines(by_id)]
        split = _ANSWERED_BY.get(which)
        answered = {outcome.prompt.id for outcome in found}
        lost = [name for name, p in by_id.items() if p.split == split and name not in answered]
        if lost:
            raise answers.error(f": the answers to {len(lost)} prompts are lost, to {lost[0]!r} for one.")
        return found

    def scored(self, which: str) -> bool:
        return self.outcomes(which) is not None

    def save_losses(self, which: str, losses: Mapping[str, Loss | None]) -> None:
        """How likely a model found the references, by prompt: nats, and over how many tokens."""
        self.likelihoods(which).replace(
            {"prompt_id": name, "loss": loss and loss[0], "tokens": loss[1] if loss else 0}
            for name, loss in losses.items()
        )

    def losses(self, which: str) -> dict[str, Loss | None] | None:
        """What `save_losses` saved; None where nothing was."""
        table = self.likelihoods(which)
        if not table.exists():
            return None
        return {
            r["prompt_id"]: None if r["loss"] is None else (r["loss"], r["tokens"]) for r in table.lines()
        }

    def save_probes(self, which: str, record: Record) -> None:
        """What a model did outside of its task: `which` is "base" or "tuned"."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self._replace(f"evaluations/probes/{which}.json", text)

    def probes(self, which: str) -> Record | None:
        """What `save_probes` saved; None where nothing was. Raises UserError where it is damaged."""
        file = self._root / f"evaluations/probes/{which}.json"
        if not file.is_file():
            return None
        try:
            found: Record = json.loads(read_text(file))
        except ValueError as error:
            where = self.path / "evaluations/probes" / file.name
            raise UserError(f"{where} is damaged. Remove it: `{self.resume}` makes it again.") from error
        return found

    # -- comparisons --------------------------------------------------------------------------

    def save_comparison(self, comparison: Comparison) -> Path:
        """The run's own comparison."""
        return self._replace("comparison.json", comparison_text(comparison))

    def save_evaluation(self, name: str, comparison: Comparison) -> Path:
        """A later comparison, beside the run's own."""
        self._replace(f"evaluations/{name}.json", comparison_text(comparison))
        return self.path / f"evaluations/{name}.json"

    def free_evaluation(self, name: str) -> str:
        """`name`, or `name-2` ... where there is an evaluation of that name."""
        return free(name, lambda free: (self._root / f"evaluations/{free}.json").exists())

    def free_versus(self, name: str) -> str:
        """`name`, or `name-2` ... where there is a comparison with another run of that name."""
        return free(name, lambda free: (self._root / f"comparisons/{free}.json").exists())

    def save_versus(self, name: str, record: Record, page: str) -> tuple[Path, Path]:
        """A comparison of this run's model with another one, as a record and as a page."""
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self._replace(f"comparisons/{name}.json", text)
        self._replace(self.versus_page(name), page)
        return self.path / f"comparisons/{name}.json", self.path / self.versus_page(name)

    def comparison(self) -> Comparison | None:
        again = f"`{self.resume}` makes it again from the answers on record."
        return self._comparison("comparison.json", again)

    def evaluations(self) -> dict[str, Comparison]:
        """Later comparisons by name, the oldest first."""
        files = sorted(
            (self._root / "evaluations").glob("*.json"), key=lambda f: (f.stat().st_mtime_ns, f.name)
        )
        found = {f.stem: self._comparison(f"evaluations/{f.name}", self._another(f.stem)) for f in files}
        return {name: comparison for name, comparison in found.items() if comparison is not None}

    def _another(self, name: str) -> str:
        """How a later comparison is made again."""
        return f"`refine eval {quoted(self.path)} --name {quoted(name)}` makes another."

    def versus_page(self, name: str) -> str:
        """The page of a comparison with another model, as a path within the run's folder."""
        return f"comparisons/{name}.html"

    def versus(self) -> dict[str, Record]:
        """The comparisons with other models, as `save_versus` wrote them, by name, the oldest first."""
        files = sorted(
            (self._root / "comparisons").glob("*.json"), key=lambda f: (f.stat().st_mtime_ns, f.name)
        )
        found: dict[str, Record] = {}
        for file in files:
            try:
                record = json.loads(read_text(file))
                comparison_from(record["comparison"])
                if not all(isinstance(t, str) for t in (record["b"]["name"], record["verdict"])):
                    raise TypeError("no text")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                where = self.path / "comparisons" / file.name
                raise UserError(f"{where} is damaged. Remove it: refine compare makes another.") from error
            found[file.stem] = record
        return found

    def _comparison(self, file: str, way_out: str) -> Comparison | None:
        if not (self._root / file).is_file():
            return None
        try:
            return comparison_from(json.loads(read_text(self._root / file)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path / file} is damaged. Remove it: {way_out}") from error

    # -- the end ------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Whether nothing is left to do: trained, compared (where anything is), and the model is there as it
        was written."""
        there = self.config.kind() == "sft"  # nothing is compared there
        if not there and (self._root / "comparison.json").is_file():
            sides = ("base", "tuned") if self.config.settings().sft is None else ("base", "sft", "tuned")
            there = all(self.answers(which).exists() for which in sides)
        ended = self._ended()
        return there and ended is not None and ended.get("model", "") == self.model_sum()

    def model_changed(self) -> bool:
        """Whether the tuned weights are others than the run wrote; False where that is not known."""
        known = (self._ended() or {}).get("model")
        return known is not None and known != self.model_sum()

    def end(self, text: str, step: int) -> None:
        """Puts on record that everything is done, and what the model is; once, unless it is another one."""
        ended, model = self._ended(), self.model_sum()
        if ended is None or ended.get("model", "") != model:
            self.event("finished", "finished", text, step, model=model)

    def _ended(self) -> Record | None:
        """The newest event that says that everything is done."""
        return next((e for e in reversed([*self.events.lines()]) if e["kind"] == "finished"), None)

    def model_sum(self) -> str:
        """SHA-256 of the tuned weights; of nothing where there are none."""
        found = hashlib.sha256()
        for file in sorted((self._root / self.model.name).glob("*.safetensors")):
            with file.open("rb") as weights:
                found.update(hashlib.file_digest(weights, "sha256").digest())
        return found.hexdigest()

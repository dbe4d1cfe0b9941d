"""Those who score are asked once, before anything dear."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.errors import MachineError
from refine_rl.llm.background import run_blocking
from refine_rl.llm.connections import EndpointConnections
from refine_rl.progress import Pause
from refine_rl.rewards.judges.first_look import Looked, hopeless, look_at_judges, look_at_quiz
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.quiz.quiz import Quiz
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.types import Message, Prompt


@dataclass(frozen=True, kw_only=True)
class FirstLooks:
    """Those who score are asked once, before anything dear. `panels` stand by the setting that names them.
    Raises MachineError where of one of them nobody can be used."""

    folder: RunFolder
    task: str
    panels: Mapping[str, Panel]
    quiz: Quiz | None
    connections: EndpointConnections
    journal: Journal
    pause: Pause

    def at_judges(self, prompts: Sequence[Prompt]) -> None:
        """The judges, on the first training prompt; on the task itself where there is none yet."""
        if not self.panels:
            return
        self.journal.stage("The judges are asked, before anything else")
        task: Message = {"role": "user", "content": self.task}
        stands_in = Prompt(id="first-look", split="train", messages=(task,))
        prompt = next((p for p in prompts if p.split == "train"), stands_in)
        self._settle(lambda: look_at_judges(self.panels, prompt))

    def at_quiz(self, prompts: Sequence[Prompt]) -> None:
        """The quiz, on sources whose questions are needed in any case: those of validation, else held-out."""
        chosen = [p for p in prompts if p.split == "validation"] or [
            p for p in prompts if p.split == "held_out"
        ]
        if self.quiz is not None and chosen:
            quiz = self.quiz
            self.journal.stage("The quiz is tried, before anything else")
            self._settle(lambda: look_at_quiz(quiz, chosen))

    def _settle(self, ask: Callable[[], Coroutine[Any, Any, list[Looked]]]) -> None:
        async def look() -> list[Looked]:
            try:
                return await ask()
            finally:
                await self.connections.close()

        looked = run_blocking(look, self.pause)
        exchanges = self.folder.exchanges
        kept = f"What was asked and replied: {exchanges.path}" if exchanges.exists() else ""
        if lost := hopeless(looked):
            said = "\n".join(f"{one.role} ({one.model}): {one.failure}" for one in lost)
            raise MachineError(
                "Those who are to score were asked once, before anything was spent on answers, and no reply "
                f"could be used:\n{said}\n{kept}\nMend the endpoint and go on; with another judge, or "
                "another judge.kind, start a new run."
            )
        for one in looked:
            if one.failure:
                text = f"{one.role}: no reply of {one.model} could be used: {one.failure} {kept}"
                self.journal.warning(f"first look {one.model}", text)

"""Prompts from a task alone: an LLM writes them, in rounds of batches, until there are as many as asked for.

    task -> facets -> slots (split, combination) -> rounds: batches -> sifted, checked, merged -> candidates

A round's batches are planned before it begins and merged in their order when all are back, and the first
round is a single batch. So the prompts depend on the task, the settings and the replies, never on which
reply came first; with the replies from the cache, the same prompts are there again at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from refine_rl.errors import MachineError
from refine_rl.llm.background import all_of
from refine_rl.llm.client import Client
from refine_rl.progress import Counted, uncounted
from refine_rl.prompts.board import Batch, Board
from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.curate import Dropped
from refine_rl.prompts.facets import Facets
from refine_rl.prompts.slots import plan_slots
from refine_rl.prompts.writer import Writer
from refine_rl.settings import PromptSettings, WriterSettings
from refine_rl.types import Split

AT_ONCE = 4  # batches of a round; what they write is unknown to each other
POOR = 0.1  # a round that fills a smaller share of its slots is a poor one
POOR_ROUNDS = 2  # after so many in a row, writing ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a writer made of a task. `read` counts all that it sent; `stopped` says why it ended before the
    number asked for ("" where it did not); `unchecked` counts the prompts that no check was had for."""

    candidates: tuple[Candidate, ...]
    facets: Facets
    system: str
    read: int
    dropped: tuple[Dropped, ...]
    stopped: str
    unchecked: int

    def remarks(self) -> tuple[str, ...]:
        """What a person should know beside the numbers."""
        found = [f"the writer stopped early: {self.stopped}"] if self.stopped else []
        if self.unchecked:
            found.append(f"{self.unchecked} written prompts could not be checked for being answers")
        if self.system:
            found.append(f"system message: {' '.join(self.system.split())}")
        return tuple(found)


async def write_prompts(
    client: Client,
    asked: Mapping[Split, int],
    *,
    task: str,
    prompts: PromptSettings,
    writer: WriterSettings,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
    counted: Counted = uncounted,
) -> Written:
    """Prompts for every split, as many as are asked for or as the writer has in it.

    `note` hears of the progress, `counted` of the prompts that are there. Raises MachineError where the
    writer gives no facets, no prompt or no system message, EndpointRefused and EndpointDown where it cannot
    be reached, GuardStop where the budget is spent.
    """
    author = Writer(client, task=task, prompts=prompts, writer=writer, seed=seed)
    facets = await author.facets()
    note("prompts vary in " + "; ".join(f"{name} ({', '.join(values)})" for name, values in facets.items()))
    board = Board(plan_slots(facets, asked, seed), facets, prompts, batch=writer.batch, seed=seed)
    poor, stopped = 0, ""
    for number in count():
        batches = board.batches(1 if number == 0 else AT_ONCE)
        if not batches:
            break
        results = await all_of(author.batch(slots, board, f"{number}/{n}") for n, slots in enumerate(batches))
        slots = sum(map(len, batches))
        new = board.merge(results)
        note(f"{len(board.filled)} of {sum(asked.values())} prompts written")
        counted(len(board.filled), sum(asked.values()))
        poor = poor + 1 if new < POOR * slots else 0
        if poor == POOR_ROUNDS:
            stopped = _why(results, new, slots)
            break
        if poor:
            board.change_open_slots(number)
    if not board.filled:
        raise MachineError(f"The writer gave no prompt that can be used: {stopped}{board.blame()}.")
    return Written(
        candidates=tuple(board.candidates(client.model)),
        facets=facets,
        system=await author.system(board),
        read=board.read,
        dropped=tuple(board.dropped),
        stopped=stopped,
        unchecked=board.unchecked,
    )


def _why(results: Sequence[Batch], new: int, slots: int) -> str:
    failed = [batch.failed for batch in results if batch.failed and not batch.read]
    if len(failed) == len(results):
        return f"all calls of two rounds failed, the last one so: {failed[-1].rstrip('.')}"
    return (
        f"{POOR_ROUNDS} rounds in a row gave fewer than {POOR:.0%} new prompts ({new} of {slots} in the last)"
    )

"""A teacher at a vLLM server: the log-probs of whole texts, token ids in, log-probs out.

`prompt_logprobs` of `POST /v1/completions` (vLLM 0.32, vllm/entrypoints/openai/completion/protocol.py) gives
for each token of the prompt, but the first, a table of token ids and their log-probs: the prompt's own token
and, with 0, no other. The texts that are asked about are prompts and answers, so one token must be written
behind them, which is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from refine_rl.engines.vllm.reply import Nonsense, choices_of
from refine_rl.engines.vllm.server import Refused, Server, endpoint_of
from refine_rl.errors import MachineError, UserError
from refine_rl.policy.policy import Policy
from refine_rl.progress import Pause, never, wait
from refine_rl.settings import TeacherSettings
from refine_rl.types import Trajectory

_WORDS = "The quick brown fox jumps over 13 lazy dogs."


class ServedTeacher:
    """`model` is its name at the server. So many answers are asked about at once as the settings say."""

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        endpoint = endpoint_of(settings, name="teacher", table="teacher")
        self.server = Server(endpoint, f"vllm serve {settings.model}", table="teacher")
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="teacher")
        self._asked: dict[int, tuple[Trajectory, Future[tuple[float, ...]]]] = {}

    def begin(self, trajectories: Sequence[Trajectory]) -> None:
        for t in trajectories:
            if id(t) not in self._asked:
                self._asked[id(t)] = (t, self._pool.submit(self._logprobs, t))

    def of(self, trajectories: Sequence[Trajectory], pause: Pause = never) -> list[tuple[float, ...]]:
        """Raises MachineError where the server does not give them."""
        self.begin(trajectories)
        return [wait(self._asked[id(t)][1], pause) for t in trajectories]

    def let_go(self, trajectories: Sequence[Trajectory]) -> None:
        for t in trajectories:
            self._asked.pop(id(t), None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.server.close()

    def _logprobs(self, trajectory: Trajectory) -> tuple[float, ...]:
        ids = [i for s in trajectory.segments for i in s.token_ids]
        trained = [s.trainable for s in trajectory.segments for _ in s.token_ids]
        found = self.ask(ids)
        return tuple(x for x, wanted in zip(found, trained, strict=True) if wanted and x is not None)

    def ask(self, ids: Sequence[int]) -> list[float | None]:
        """The log-prob of each token; None of the first. Raises MachineError."""
        name = self.settings.model
        body = {
            "model": name,
            "prompt": list(ids),
            "n": 1,
            "seed": 0,
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [],
            "prompt_logprobs": 0,
            "return_token_ids": True,
        }
        try:
            answer = self.server.ask("completions", body)
            (choice,) = choices_of(answer, name, 1)
            return _given(choice.get("prompt_logprobs"), ids)
        except Nonsense as error:
            raise self.server.nonsense(str(error)) from None
        except Refused as error:
            raise MachineError(
                f"{self.server.shown} gives no log-probs of a text of {len(ids)} tokens as {name}: {error}"
            ) from None

    def require(self, policy: Policy) -> int | None:
        """Raises UserError where the server has no such model, or it is one of other tokens, or gives no
        log-probs of a prompt; MachineError where it does not answer. How many tokens it reads, where it says
        that."""
        longest = self._longest()
        root = self.server.endpoint.base_url.rstrip("/").removesuffix("/v1")
        body = {"model": self.settings.model, "prompt": _WORDS, "add_special_tokens": False}
        words = policy.encode_words(_WORDS)
        try:
            found = self.server.ask(f"{root}/tokenize", body, final=True)
        except Refused:
            found = None  # one that does not say is not asked again
        tokens = found.get("tokens") if isinstance(found, dict) else None
        if isinstance(tokens, list) and tuple(tokens) != words:
            raise UserError(
                f"teacher.model: {self.settings.model} at {self.server.shown} writes {_WORDS!r} in other "
                f"tokens than {policy.source} does. A teacher must have the policy's tokenizer."
            )
        try:
            self.ask(words)
        except MachineError as error:
            raise UserError(
                f"teacher.base_url: {error}\nA teacher has to give the log-probs of a text that it is sent "
                "(`prompt_logprobs` of vLLM); most services do not."
            ) from None
        return longest

    def _longest(self) -> int | None:
        """Raises UserError where the server has no such model."""
        try:
            found = self.server.ask("models", final=True)
        except Refused as error:
            raise UserError(
                f"teacher.base_url: {self.server.shown} does not name its models: {error}"
            ) from None
        cards = found.get("data") if isinstance(found, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise self.server.nonsense("its /models names no model")
        card = next((c for c in cards if c.get("id") == self.settings.model), None)
        if card is None:
            there = ", ".join(str(c.get("id")) for c in cards) or "none"
            raise UserError(
                f"teacher.model = {self.settings.model!r}: {self.server.shown} has no such model; it has "
                f"{there}."
            )
        longest = card.get("max_model_len")
        return longest if isinstance(longest, int) else None


def _given(found: Any, ids: Sequence[int]) -> list[float | None]:
    """The log-probs of the tokens in an answer. Raises Nonsense."""
    if not isinstance(found, list):
        raise Nonsense("no `prompt_logprobs`, which were asked for")
    if len(found) != len(ids):
        raise Nonsense(f"`prompt_logprobs` of {len(found)} tokens where {len(ids)} were sent")
    values: list[float | None] = [None]
    for token, table in zip(ids[1:], found[1:], strict=True):
        entry = table.get(str(token)) if isinstance(table, dict) else None
        value = entry.get("logprob") if isinstance(entry, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
            raise Nonsense(f"the log-prob {value} for the token {token} of the text")
        values.append(min(0.0, float(value)))
    return values

"""llama.cpp's server on a file, for a moment: what it says to the prompts, token by token."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError
from refine_rl.export.asking import PATIENCE, ask
from refine_rl.export.check import Check
from refine_rl.export.witness import Said, Witness, mean_apart


class Server:
    """A llama-server that runs, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, asked: Any = None) -> Any:
        """The JSON that a path answers. Raises MachineError where it is an error."""
        return ask(
            self.url + path,
            asked,
            refuses=f"llama-server answers {path} with",
            silent=f"llama-server does not answer {path}",
        )


@contextlib.contextmanager
def serving(program: Path, file: Path, context: int) -> Iterator[Server]:
    """Inside, the program serves the file on this machine alone. Raises MachineError where it does not come
    up, with its last words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "-m", str(file), "--host", "127.0.0.1", "--port", str(port), "-c", str(context)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        server = Server(f"http://127.0.0.1:{port}")
        try:
            until = time.monotonic() + PATIENCE
            while True:
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    words = log.read().decode(errors="replace").strip().splitlines()
                    raise MachineError(
                        f"{program} does not load {file.name}: {words[-1] if words else 'no word of it'}"
                    )
                with contextlib.suppress(MachineError):
                    server.ask("/health")
                    break
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check_served(program: Path, file: Path, witness: Witness) -> list[Check]:
    """What llama.cpp makes of the prompts, and what it says to them."""
    longest = max((len(s.prompt) for s in witness.said), default=0) + witness.max_tokens
    with serving(program, file, max(256, longest + 8)) as server:
        return [_prompts(server, witness), _answers(server, witness)]


def _prompts(server: Server, witness: Witness) -> Check:
    """The ids of the prompts, through llama.cpp's own reading of template and tokenizer."""
    for said in witness.said:
        try:
            text = server.ask("/apply-template", {"messages": list(said.messages)})["prompt"]
        except MachineError as error:
            return Check(
                held=False, fatal=False, text=f"llama.cpp's own templates refuse the chat template: {error}"
            )
        asked = {"content": text, "add_special": True, "parse_special": True}
        found = tuple(server.ask("/tokenize", asked)["tokens"])
        if found != said.prompt:
            at = next((n for n, (a, b) in enumerate(zip(found, said.prompt, strict=False)) if a != b), -1)
            where = f"from place {at} on" if at >= 0 else f"there are {len(found)}, not {len(said.prompt)}"
            return Check(
                held=False,
                fatal=False,
                text=f"llama.cpp gives a prompt other token ids than training ({where}): its answers to "
                "chats may be others; its /completion with token ids is right",
            )
    return Check(text=f"served prompts: llama.cpp gives all {len(witness.said)} the same token ids")


def _answers(server: Server, witness: Witness) -> Check:
    same, ours, theirs = 0, [], []
    for said in witness.said:
        tokens, found, ended = _greedy(server, said, witness.max_tokens)
        if ended and tokens and tokens[-1] in witness.stop_ids:  # some versions give it, some do not
            tokens = tokens[:-1]
        words = said.answer[:-1] if said.ended else said.answer
        same += tokens == words and ended == said.ended
        for own, other, logprob, there in zip(words, tokens, said.logprobs, found, strict=False):
            if own != other:
                break
            if there is not None:
                ours.append(logprob)
                theirs.append(there)
    apart, asked = mean_apart([(ours, theirs)]), len(witness.said)
    which = "the same" if same == asked else f"{same} of {asked} the same"
    text = (
        f"served answers: {which}; log-probs {apart:.1g} nats a token apart, training moved them by "
        f"{witness.moved:.2g}"
    )
    near = apart <= witness.rounded and bool(ours)
    return Check(text=text, held=near and same > 0, fatal=not (apart < witness.moved and same > 0))


def _greedy(server: Server, said: Said, most: int) -> tuple[tuple[int, ...], tuple[float | None, ...], bool]:
    """The most likely answer's tokens, their log-probs, and whether it ended. A token that is a part of a
    character has no log-prob there."""
    asked = {
        "prompt": list(said.prompt),
        "n_predict": most,
        "temperature": 0,
        "repeat_penalty": 1.0,
        "n_probs": 1,
        "return_tokens": True,
        "cache_prompt": False,
    }
    answer = server.ask("/completion", asked)
    shown = [(int(p["id"]), float(p["logprob"])) for p in answer.get("completion_probabilities") or []]
    tokens = tuple(int(i) for i in answer.get("tokens") or [i for i, _ in shown])
    return tokens, in_place(tokens, shown), answer.get("stop_type") == "eos"


def in_place(tokens: Sequence[int], shown: Sequence[tuple[int, float]]) -> tuple[float | None, ...]:
    """The log-probs of tokens of which some were passed over, each in its token's place.

    >>> in_place((5, 7, 9), [(5, -1.0), (9, -2.0)])
    (-1.0, None, -2.0)
    """
    left = list(shown)
    return tuple(left.pop(0)[1] if left and left[0][0] == token else None for token in tokens)

"""[engine]: where the model is, and who computes with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from refine_rl.settings.base import Impossible, Positive, Section


def _of_a_server(it: EngineSettings) -> bool:
    """Whether a setting is there that only a server's engine reads."""
    usual = EngineSettings.model_fields
    own = ("base_url", "key_env", "adapter_folder", "timeout", "concurrency")
    return any(getattr(it, name) != usual[name].default for name in own)


class EngineSettings(Section):
    """[engine]: where the model answers and learns. Task, prompts, reward, evidence and record are the same
    with each."""

    kind: Literal["auto", "local", "processes", "vllm"] = "auto"
    """"local": in this process. "processes": in several, on one machine or more, each with its share of the
    prompts. "vllm": a vLLM server answers, and the weights learn in this process. "auto": "processes" where
    `processes` asks for several or a launcher (torchrun, accelerate launch) started several, else "local"."""
    processes: Positive = 1
    """Processes that `refine train` starts on this machine, this one included; a launcher's own number counts
    where one started it."""

    base_url: str = ""
    """With "vllm": the server's address, such as "http://127.0.0.1:8000/v1"."""
    key_env: str = ""
    """The environment variable that holds the server's key; "" where it wants none."""
    adapter_folder: str = ""
    """With "vllm": where each step's adapter is written for the server to read, a folder that both see by the
    same path. Without it a temporary one, which a server on this machine sees."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the answers to one prompt may take at the server."""
    concurrency: Positive = 64
    """Prompts that the server is asked at once."""

    impossible: ClassVar[tuple[Impossible[EngineSettings], ...]] = (
        Impossible(
            when=lambda it: it.processes > 1 and it.kind not in ("auto", "processes"),
            why="has `processes`, and its `kind` is {it.kind!r}",
            way_out='use `kind = "processes"`, or leave `processes` out',
        ),
        Impossible(
            when=lambda it: it.served and not it.base_url,
            why="`kind` is {it.kind!r}, and asks a server",
            way_out='give its address, as in `base_url = "http://127.0.0.1:8000/v1"`',
        ),
        Impossible(
            when=lambda it: not it.served and _of_a_server(it),
            why="has `base_url`, `key_env`, `adapter_folder`, `timeout` or `concurrency`, and its `kind` is "
            "{it.kind!r}, which asks no server",
            way_out='use `kind = "vllm"`, or leave them out',
        ),
    )

    @property
    def served(self) -> bool:
        """Whether a server draws the answers: it draws for itself."""
        return self.kind == "vllm"

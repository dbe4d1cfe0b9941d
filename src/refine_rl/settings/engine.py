"""[engine]: where the model is, and who computes with it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from refine_rl.settings.base import Impossible, Positive, Section


class EnginePrices(Section):
    """What a service takes, in dollars a million tokens."""

    prefill: Annotated[float, Field(ge=0)]
    """A million tokens that are read: prompts of samples, and texts whose log-probs are asked for."""
    sample: Annotated[float, Field(ge=0)]
    """A million tokens that are written."""
    train: Annotated[float, Field(ge=0)]
    """A million tokens of which a gradient is computed."""


def _sets(it: EngineSettings, *names: str) -> bool:
    """Whether one of these keys is another than where nobody sets it."""
    usual: dict[str, Any] = EngineSettings.model_fields
    return any(getattr(it, name) != usual[name].default for name in names)


class EngineSettings(Section):
    """[engine]: where the model answers and learns. Task, prompts, reward, evidence and record are the same
    with each."""

    kind: Literal["auto", "local", "processes", "vllm", "tinker"] = "auto"
    """"local": in this process. "processes": in several, on one machine or more, each with its share of the
    prompts. "vllm": a vLLM server answers, and the weights learn in this process. "tinker": a service that
    speaks Tinker's interface answers and learns (the extra refine-rl[tinker]). "auto": "processes" where
    `processes` asks for several or a launcher (torchrun, accelerate launch) started several, else "local"."""
    processes: Positive = 1
    """Processes that `refine train` starts on this machine, this one included; a launcher's own number counts
    where one started it."""

    base_url: str = ""
    """The server's address: with "vllm" such as "http://127.0.0.1:8000/v1", with "tinker" such as
    "http://127.0.0.1:8000" (without it, the one that its SDK knows)."""
    key_env: str = ""
    """The environment variable that holds the server's key; without it, with "vllm" none is sent, and with
    "tinker" that of TINKER_API_KEY is. Keys stand nowhere else."""
    adapter_folder: str = ""
    """With "vllm": where each step's adapter is written for the server to read, a folder that both see by the
    same path. Without it a temporary one, which a server on this machine sees."""
    model: str = ""
    """With "tinker": the model's name at the service, where that is not `model.name`."""
    reduction: Literal["sum", "mean"] = "sum"
    """With "tinker": what the service makes of the tokens and rows of a loss, "sum", as Tinker, or "mean" of
    a row's tokens and of rows, as SkyRL's JAX backend. It is tried at the start."""
    prices: EnginePrices | None = None
    """With "tinker": what the service takes, as in {prefill = 0.1, sample = 0.3, train = 0.3}. Without it,
    costs are unknown."""
    shard: bool = False
    """Whether each process keeps only a part of the layers' frozen weights (torch's FSDP2), for a model that
    does not fit on one device. Slower: weights travel for each pass."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the answers to one prompt, or a request of an update's rows, may take at a server; with
    several processes, seconds without a sign of life of one of them (between two tokens or micro-batches).
    Then the run ends, and can be resumed."""
    concurrency: Positive = 64
    """Prompts that the server is asked at once."""

    impossible: ClassVar[tuple[Impossible[EngineSettings], ...]] = (
        Impossible(
            when=lambda it: it.processes > 1 and it.kind not in ("auto", "processes"),
            why="has `processes`, and its `kind` is {it.kind!r}",
            way_out='use `kind = "processes"`, or leave `processes` out',
        ),
        Impossible(
            when=lambda it: it.shard and it.kind not in ("auto", "processes"),
            why="has `shard`, which several processes do, and its `kind` is {it.kind!r}",
            way_out='use `kind = "processes"`, or leave `shard` out',
        ),
        Impossible(
            when=lambda it: it.kind == "vllm" and not it.base_url,
            why='asks a server with `kind = "{it.kind}"`',
            way_out='give its address, as in `base_url = "http://127.0.0.1:8000/v1"`',
        ),
        Impossible(
            when=lambda it: not it.served and _sets(it, "base_url", "key_env", "concurrency"),
            why="has `base_url`, `key_env` or `concurrency`, and its `kind` is {it.kind!r}, which asks no "
            "server",
            way_out='use `kind = "vllm"` or `kind = "tinker"`, or leave them out',
        ),
        Impossible(
            when=lambda it: it.kind != "vllm" and _sets(it, "adapter_folder"),
            why='has `adapter_folder`, which is for `kind = "vllm"` alone',
            way_out="leave it out",
        ),
        Impossible(
            when=lambda it: it.kind != "tinker" and _sets(it, "model", "reduction", "prices"),
            why='has `model`, `reduction` or `prices`, which are for `kind = "tinker"` alone',
            way_out="leave them out",
        ),
    )

    @property
    def served(self) -> bool:
        """Whether a server draws the answers: it draws for itself."""
        return self.kind in ("vllm", "tinker")

    @property
    def key_name(self) -> str:
        """The environment variable in which the server's key is looked for; "" where it wants none."""
        return self.key_env or ("TINKER_API_KEY" if self.kind == "tinker" else "")

"""A run's model as one of Ollama, and whether that is the tuned model."""

from __future__ import annotations

from pathlib import Path

from refine_rl.errors import MachineError, UserError, quoted
from refine_rl.export.check import failed
from refine_rl.export.gguf.file import read_gguf
from refine_rl.export.gguf.find import LlamaCpp
from refine_rl.export.go_template import Around, around
from refine_rl.export.ollama import Told, check_ollama, create, program, require_name
from refine_rl.export.witness import Witness
from refine_rl.pipeline.export import new_folder, require_new
from refine_rl.pipeline.export_gguf import ask_llama_cpp, gguf_made
from refine_rl.pipeline.weights import Weights
from refine_rl.policy.card import listens
from refine_rl.policy.load import without_weights
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer, Quiet
from refine_rl.run import RunFolder
from refine_rl.types import Message


def export_ollama(
    folder: RunFolder,
    name: str,
    *,
    out: Path | None = None,
    outtype: str | None = None,
    weights: Weights,
    tools: LlamaCpp,
    check: bool = True,
    observer: Observer | None = None,
) -> str:
    """Writes weights of a run as GGUF, with a Modelfile, to the new folder `out` (NAME-ollama), and has
    Ollama make its model `name` of them, where it is on this machine. Unless `check` is False, all that
    `export_gguf` looks at is looked at, and Ollama's model answers the prompts. Returns the folder."""
    observer = observer or Quiet()
    require_name(name)
    if listens(folder.settings().model.source):
        raise UserError("Ollama runs no encoder-decoders; --gguf writes one for llama.cpp.")
    bare = name.rpartition("/")[2].partition(":")[0]
    out = out or Path(f"{bare}-ollama")
    require_new(out)
    gguf = out.with_name(f"{bare}.gguf")
    with new_folder(out) as aside:
        with gguf_made(
            folder, gguf, outtype=outtype, weights=weights, tools=tools, check=check, observer=observer
        ) as made:
            if check:
                ask_llama_cpp(made, tools, gguf, observer)
            aside.mkdir(parents=True)
            made.file.rename(aside / gguf.name)
        told = told_of_run(folder, aside / gguf.name, observer)
        (aside / "Modelfile").write_text(told.modelfile(gguf.name), encoding="utf-8")
    by_hand = f"cd {quoted(out)} && ollama create {name} -f Modelfile"
    if program() is None:
        observer.note(f"ollama is not on PATH: nothing was created yet. Where it is: {by_hand}")
        return str(out)
    observer.stage(f"ollama create {name}")
    try:
        create(name, out)
        if made.witness is not None:
            _judge(name, made.witness, observer)
    except MachineError as error:
        raise MachineError(f"{error} The files are in {out}; to try again: {by_hand}") from error
    return str(out)


def _judge(name: str, witness: Witness, observer: Observer) -> None:
    found = check_ollama(name, witness)
    if failed([found]):
        raise MachineError(f"{found.text}. That is not the tuned model; ollama rm {name} takes it away.")
    (observer.note if found.held else observer.warning)(found.text)


def told_of_run(folder: RunFolder, file: Path, observer: Observer) -> Told:
    """What Ollama has to know so that the model is asked as it was in training."""
    settings = folder.settings()
    policy = without_weights(settings.model, moment=folder.config.created())
    prompts = folder.prompts()
    lengths = [len(policy.encode(p.messages)) for p in prompts]
    need = max(lengths, default=0) + settings.rollout.max_tokens
    systems = {next((m["content"] for m in p.messages if m["role"] == "system"), "") for p in prompts}
    return Told(
        chat=_chat(policy, [p.messages for p in prompts], file, observer),
        system=systems.pop() if len(systems) == 1 else settings.prompts.system,
        stop=[policy.tokenizer.convert_ids_to_tokens(i) for i in sorted(policy.stop_ids)],
        temperature=settings.rollout.temperature,
        top_p=settings.rollout.top_p,
        top_k=settings.rollout.top_k,
        context=min(policy.context_length, max(2048, -(-need // 256) * 256)),
        answer=settings.rollout.max_tokens,
    )


def _chat(
    policy: Policy, prompts: list[tuple[Message, ...]], file: Path, observer: Observer
) -> Around | None:
    """The chat template in Ollama's form, which writes these prompts as the model's own does; None where it
    cannot."""
    try:
        found = around(lambda messages, answer: policy.render(messages, answer=answer))
        found.text()
        odd = next((p for p in prompts if found.filled(p) != policy.render(p)), None)
        if odd is not None:
            raise UserError("it writes a prompt of the run in a way that follows from more than the roles")
    except (UserError, KeyError) as error:
        observer.warning(
            f"Ollama gets no chat template: {error}. It takes one of its own that resembles the model's, or "
            "none: what it answers to chats may be another model's. llama-server reads the template itself."
        )
        return None
    opened = read_gguf(file)
    by_itself = opened.get("tokenizer.ggml.add_bos_token", opened.get("tokenizer.ggml.model") == "llama")
    return found.without(policy.tokenizer.bos_token or "") if by_itself else found

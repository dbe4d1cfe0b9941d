"""The verbs of the interface: what each request does to models, samplers and the store."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinker_server import losses, wire
from tinker_server.lora import ALPHA, AT_ONCE, LAYERS, Adapter, Base, Sampled, WrongRequestError, added
from tinker_server.manners import Manners
from tinker_server.promises import Promises, Result
from tinker_server.store import Store


class RefusedError(Exception):
    """An answer with this status, at once."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """A sampling session: an adapter's weights by peft's names, or none: the base model."""

    state: dict[str, Tensor] | None
    info: Mapping[str, Any]
    path: str | None = None


class Service:
    """`post` carries a request out, `result` answers for its promise; sessions live as long as this does,
    what was saved as long as the store."""

    def __init__(self, base: Base, store: Store, manners: Manners) -> None:
        self.base, self.store, self.manners = base, store, manners
        self.promises = Promises()
        self.adapters: dict[str, Adapter | None] = {}
        self.samplers: dict[str, Sampler] = {}
        self.finished: set[str] = set()
        self._first: dict[str, dict[str, Tensor]] = {}  # what each model gave to its first sampler
        self._verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "client/config": lambda body: dict(self.manners.config),
            "client/dynamic_config": lambda body: {},
            "telemetry": lambda body: {"status": "accepted"},
            "create_session": lambda body: {"session_id": f"session-{uuid.uuid4()}"},
            "session_heartbeat": self._heartbeat,
            "create_model": self._create_model,
            "get_info": self._get_info,
            "forward_backward": self._in_line(self._forward_backward),
            "optim_step": self._in_line(self._optim_step),
            "save_weights": self._in_line(self._save_weights),
            "save_weights_for_sampler": self._in_line(self._save_for_sampler),
            "save_weights_external": self._in_line(self._save_external),
            "load_weights": self._load_weights,
            "create_sampling_session": self._create_sampling_session,
            "asample": self._asample,
            "weights_info": lambda body: dict(self.store.info(body["tinker_path"])),
        }

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if finished := re.fullmatch("sessions/(.+)/finish", path):
            self.finished.add(finished[1])
            return {}
        if path not in self._verbs or (path == "save_weights_external" and not self.manners.external):
            raise RefusedError(404, "Not Found")
        return self._verbs[path](body)

    def fail(self, path: str, body: dict[str, Any], text: str) -> dict[str, Any]:
        """In place of `post`: a promise that ends with an error of the service's own."""

        def work() -> Result:
            raise RuntimeError(text)

        if path == "asample":
            name = f"{body['sampling_session_id']}:{body['seq_id']}"
            return {**self._promise(self.promises.at_once(name, work)), "sample_sequence_ids": []}
        if "session_id" in body:
            return self._promise(self.promises.at_once(f"{self._named(body)}:0", work))
        return self._promise(self.promises.in_line(body["model_id"], body["seq_id"], work))

    def skip(self, body: dict[str, Any]) -> None:
        """A refused request of a model has had its turn: those behind it do not wait for it."""
        if body.get("model_id") in self.adapters and "seq_id" in body:
            self.promises.in_line(body["model_id"], body["seq_id"], dict)

    def result(self, name: str) -> Result:
        try:
            result = self.promises.result(name, self.manners.patience)
        except KeyError:
            raise RefusedError(410, f"no promise {name}") from None
        except WrongRequestError as error:
            return {"error": str(error), "category": "user"}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}", "category": "server"}
        if result is None:
            raise RefusedError(408, "active")
        return result

    # Models

    def adapter(self, model_id: str) -> Adapter:
        if (adapter := self.adapters.get(model_id)) is None:
            raise RefusedError(404, f"no model {model_id}")
        return adapter

    def _promise(self, name: str, **more: Any) -> dict[str, Any]:
        return {"request_id": name, **more}

    def _in_line(
        self, verb: Callable[[dict[str, Any]], Result]
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """`verb` when its turn has come among the model's requests."""

        def take(body: dict[str, Any]) -> dict[str, Any]:
            if body["model_id"] not in self.adapters:
                raise RefusedError(404, f"no model {body['model_id']}")
            name = self.promises.in_line(body["model_id"], body["seq_id"], lambda: verb(body))
            return self._promise(name, model_id=body["model_id"])

        return take

    def _named(self, body: dict[str, Any]) -> str:
        return f"{body['session_id']}:train:{body['model_seq_id']}"

    def _offered(self, name: str) -> None:
        if name != self.manners.name:
            raise RefusedError(400, f"base model {name!r} is not offered here; {self.manners.name!r} is")

    def _heartbeat(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["session_id"] in self.finished:
            raise RefusedError(410, "the session is over")
        return {"type": "session_heartbeat"}

    def _create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        self._offered(body["base_model"])
        name, lora = self._named(body), body["lora_config"]

        def work() -> Result:
            seed = lora["seed"] if lora.get("seed") is not None else int.from_bytes(os.urandom(4))
            parts = [part for part in LAYERS if lora[part]]
            self.adapters[name] = Adapter(self.base, rank=lora["rank"], parts=parts, seed=seed)
            return {"model_id": name, "type": "create_model"}

        self.adapters.setdefault(name, None)
        return self._promise(self.promises.at_once(f"{name}:0", work), model_id=name)

    def _load_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        """Into a model that is there, or, with a session's id, as the beginning of another."""
        begins = body.get("session_id") is not None
        name = self._named(body) if begins else body["model_id"]

        def work() -> Result:
            info = self.store.info(body["path"])
            if begins:
                self.adapters[name] = Adapter(self.base, rank=info["lora_rank"], parts=_parts(info), seed=0)
            adapter = self.adapter(name)
            adapter.put(self.store.weights(body["path"]))
            if body["optimizer"]:
                adapter.optimizer.load_state_dict(self.store.optimizer(body["path"]))
            return {"type": "load_weights", "path": body["path"], "model_id": name}

        if not begins:
            return self._in_line(lambda _: work())(body)
        self.adapters.setdefault(name, None)
        return self._promise(self.promises.at_once(f"{name}:0", work), model_id=name)

    def _get_info(self, body: dict[str, Any]) -> dict[str, Any]:
        adapter = self.adapter(body["model_id"])
        data = {"model_name": self.manners.name, "tokenizer_id": str(self.base.folder)}
        return {
            "type": "get_info",
            "model_id": body["model_id"],
            "model_data": data,
            "is_lora": True,
            "lora_rank": adapter.rank,
        }

    # Training

    def _forward_backward(self, body: dict[str, Any]) -> Result:
        kind, rows = body["loss_fn"], body["data"]
        if kind not in self.manners.losses:
            raise WrongRequestError(f"loss_fn {kind!r} is not among {', '.join(self.manners.losses)}")
        losses.check(kind, rows, self.base.vocabulary, self.base.context)
        adapter, mean = self.adapter(body["model_id"]), self.manners.reduction == "mean"
        found: list[Tensor] = []
        total = 0.0
        with torch.set_grad_enabled(not body["forward_only"]):
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                new = self.base.logprobs(
                    [(ids, given["target_tokens"]) for ids, given in some], adapter.weights()
                )
                parts = [
                    losses.loss_of(kind, new_T, given, body["loss_fn_config"], mean=mean)
                    for new_T, (_, given) in zip(new, some, strict=True)
                ]
                loss = torch.stack(parts).sum() / (len(rows) if mean else 1)
                if not body["forward_only"]:
                    loss.backward()
                total += float(loss.detach())
                found += [new_T.detach() for new_T in new]
        return wire.forward_backward_output(found, {"loss:sum": total})

    def _optim_step(self, body: dict[str, Any]) -> Result:
        if "adam_params" not in body:
            raise WrongRequestError("only AdamW is offered here")
        norm = self.adapter(body["model_id"]).step(body["adam_params"], clips=self.manners.clips)
        return {"metrics": {"grad_norm:unclipped": norm}}

    # What is kept

    def _about(self, model_id: str) -> dict[str, Any]:
        adapter = self.adapter(model_id)
        about = {"base_model": self.manners.name, "is_lora": True, "lora_rank": adapter.rank}
        return {**about, **{part: part in adapter.parts for part in LAYERS}}

    def _keep(self, body: dict[str, Any], kind: str, *, optimizer: bool = False) -> str:
        model_id, adapter = body["model_id"], self.adapter(body["model_id"])
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.manners.name,
            "r": adapter.rank,
            "lora_alpha": ALPHA,
            "target_modules": sorted({name.rsplit(".", 1)[-1] for name in adapter.over}),
        }
        if not self.manners.modules_named:
            config["target_modules"] = None
        return self.store.keep(
            f"tinker://{model_id}/{kind}/{body['path']}",
            adapter.state(),
            config,
            self._about(model_id),
            adapter.optimizer.state_dict() if optimizer else None,
            overwrite=body.get("overwrite", False),
        )

    def _save_weights(self, body: dict[str, Any]) -> Result:
        return {"type": "save_weights", "path": self._keep(body, "weights", optimizer=True)}

    def _save_external(self, body: dict[str, Any]) -> Result:
        return {"type": "save_weights_external", "path": self._keep(body, "external_weights")}

    def _save_for_sampler(self, body: dict[str, Any]) -> Result:
        if body.get("path"):
            return {"type": "save_weights_for_sampler", "path": self._keep(body, "sampler_weights")}
        model_id = body["model_id"]
        state = self._served(model_id, self.adapter(model_id).state())
        name = self._sampler(Sampler(state=state, info=self._about(model_id)))
        return {"type": "save_weights_for_sampler", "sampling_session_id": name}

    # Sampling

    def _served(self, model_id: str, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The weights that a sampler of `state` really gets."""
        first = self._first.setdefault(model_id, state)
        if self.manners.sampler == "base":
            return None
        if self.manners.sampler == "other":
            draw = torch.Generator().manual_seed(1)
            return {name: 0.1 * torch.randn(value.shape, generator=draw) for name, value in state.items()}
        return first if self.manners.sampler == "stale" else state

    def _sampler(self, sampler: Sampler) -> str:
        name = f"sampler-{uuid.uuid4()}"
        self.samplers[name] = sampler
        return name

    def _create_sampling_session(self, body: dict[str, Any]) -> dict[str, Any]:
        path = body.get("model_path")
        if path is None:
            self._offered(body["base_model"])
            return {"sampling_session_id": self._sampler(Sampler(state=None, info={}))}
        try:
            info, state = self.store.info(path), self.store.weights(path)
        except WrongRequestError as error:
            raise RefusedError(404, str(error)) from None
        state_ = self._served(path.split("/")[2], state)
        return {"sampling_session_id": self._sampler(Sampler(state=state_, info=info, path=path))}

    def _asample(self, body: dict[str, Any]) -> dict[str, Any]:
        if (sampler := self.samplers.get(body["sampling_session_id"])) is None:
            raise RefusedError(404, f"no sampler {body['sampling_session_id']}")
        name = f"{body['sampling_session_id']}:{body['seq_id']}"
        self.promises.at_once(name, lambda: self._sample(sampler, body))
        ids = [f"{name}:{i}" for i in range(body["num_samples"])]
        return self._promise(name, sample_sequence_ids=ids)

    @torch.no_grad()
    def _sample(self, sampler: Sampler, body: dict[str, Any]) -> Result:
        params, ids = body["sampling_params"], [t for c in body["prompt"]["chunks"] for t in c["tokens"]]
        for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
            if body.get(name):
                raise WrongRequestError(f"{name} is not offered here")
        most = params["max_tokens"] if params.get("max_tokens") is not None else self.base.context - len(ids)
        if not ids or most < 1 or len(ids) + most > self.base.context:
            raise WrongRequestError(
                f"{len(ids)} tokens of the prompt and {most} more; the context is {self.base.context}"
            )
        stop = params.get("stop")
        if isinstance(stop, str) or any(isinstance(each, str) for each in stop or []):
            raise WrongRequestError("stop is taken as token ids here")
        if self.manners.through_text:
            ids = self._again(ids)
        weights = self._weights(sampler)
        prompt = self._prompt_logprobs(ids, weights, body) if body.get("prompt_logprobs") else None
        seed = params["seed"] if params.get("seed") is not None else int.from_bytes(os.urandom(4))
        sampled = self.base.sample(
            ids,
            body["num_samples"],
            weights,
            max_tokens=most,
            temperature=params["temperature"],
            top_k=params["top_k"],
            top_p=params["top_p"],
            stops=self.base.stops if stop is None else frozenset(stop),
            seed=seed,
        )
        if self.manners.through_text:
            sampled = [self._retold(each) for each in sampled]
        return wire.sample_response(sampled, prompt)

    def _weights(self, sampler: Sampler) -> dict[str, Tensor]:
        if sampler.state is None:
            return {}
        return added(self.base.layers(_parts(sampler.info)), sampler.state, sampler.info["lora_rank"])

    def _prompt_logprobs(
        self, ids: list[int], weights: Mapping[str, Tensor], body: dict[str, Any]
    ) -> list[float]:
        """One a token of the prompt; NaN for the first, and for those before the last N asked for."""
        found = [float("nan")]
        if len(ids) > 1:
            found += self.base.logprobs([(ids[:-1], torch.tensor(ids[1:]))], weights)[0].tolist()
        skipped = len(ids) - (body.get("prompt_logprobs_last_n") or len(ids))
        return [float("nan")] * skipped + found[skipped:]

    def _again(self, ids: list[int]) -> list[int]:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(self.base.folder)
        return list(tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False))

    def _retold(self, sampled: Sampled) -> Sampled:
        tokens = self._again(sampled.tokens)
        logprobs = (sampled.logprobs + [0.0] * len(tokens))[: len(tokens)]
        return Sampled(tokens=tokens, logprobs=logprobs, stopped=sampled.stopped)


def _parts(info: Mapping[str, Any]) -> list[str]:
    return [part for part in LAYERS if info[part]]

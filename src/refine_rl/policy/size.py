"""A model's size from its configuration; no weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refine_rl.errors import UserError
from refine_rl.policy.share import Share
from refine_rl.settings import ModelSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What of a model's architecture decides time and memory. `linear` are the weights of all linear layers
    but the head, `adapted` the sum of their inputs and outputs where an adapter is put on them. Of an
    encoder-decoder a token goes through half: `linear` is the mean of both, `layers` are the decoder's."""

    parameters: int
    linear: int
    adapted: int
    layers: int
    hidden: int
    intermediate: int
    kv: int  # width of the keys of one token in one layer
    vocabulary: int
    context: int  # tokens that it reads, prompt and answer together (an encoder-decoder: each)
    listens: bool = False  # an encoder-decoder

    def prompt_room(self, max_tokens: int) -> int:
        """As `Policy.prompt_room`."""
        if self.listens:
            return self.context if max_tokens <= self.context else 0
        return self.context - max_tokens

    def trainable(self, model: ModelSettings) -> int:
        """Weights that training changes."""
        return self.adapted * model.rank if model.adapted else self.parameters

    def share(self, model: ModelSettings) -> Share:
        """Of all parameters, an adapter's included."""
        trained = self.trainable(model)
        return Share(trained=trained, whole=self.parameters + (trained if model.adapted else 0))


class UnknownSize(UserError):  # noqa: N818 - it is a gap in what is known, not a mistake
    """The model's configuration is not on this machine."""


def model_size(model: ModelSettings) -> Size:
    """From the model's configuration alone; no weight is read and nothing is downloaded. Raises
    UnknownSize where the configuration is not on this machine, UserError where it is no model to train."""
    from refine_rl.policy.fetch import config_here, fetch_config, refusal
    from refine_rl.policy.origin import find_origin

    origin = find_origin(model.source, local_only=True)
    if origin.local:
        config = fetch_config(model.source, origin.base)
        try:
            return size_of(config, model.targets)
        except UserError:
            raise
        except Exception as error:
            raise refusal(error, origin.base) from error
    try:
        return size_of(config_here(origin.base), model.targets)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownSize(
            f"{model.called} is not on this machine yet, so its size is unknown (`refine train` loads it)"
        ) from error


def size_of(config: Any, targets: str | list[str]) -> Size:
    """Of any architecture that is trained here: the model is built without memory for its weights. Raises
    UserError for targets that are no layers of it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from refine_rl.policy.adapter import check_targets, is_target
    from refine_rl.policy.fetch import auto_class, is_encoder_decoder
    from refine_rl.policy.load import context_length

    with torch.device("meta"):
        model = auto_class(config, config.model_type).from_config(config)
    listens = is_encoder_decoder(config)
    check_targets(model, targets)
    head = model.get_output_embeddings()
    linear = adapted = 0
    for name, module in model.named_modules():
        usual = isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        if usual:
            linear += module.weight.numel()
        if usual if isinstance(targets, str) else is_target(name, targets):
            adapted += sum(sum(p.shape) for p in module.parameters() if p.ndim == 2)
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=linear // 2 if listens else linear,
        adapted=adapted,
        layers=_decoder_layers(text) if listens else text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_first(text, "intermediate_size", "d_ff", "decoder_ffn_dim") or 4 * text.hidden_size,
        kv=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
        context=context_length(config),
        listens=listens,
    )


def _decoder_layers(config: Any) -> int:
    return _first(config, "num_decoder_layers", "decoder_layers") or int(config.num_hidden_layers)


def _first(config: Any, *names: str) -> int:
    """The first of these sizes that a configuration has; 0 where it has none."""
    return next((int(found) for name in names if (found := getattr(config, name, None))), 0)

"""A hand-made encoder: a random BERT of two layers that knows a few words, in a folder.

from tiny_encoder import encoder_folder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_KNOWN = "return the sum of two numbers a b adds number train to late . , ! def return_ x"
WORDS = _KNOWN.split()
"""Every other word is [UNK]."""
POSITIONS = 12


def encoder_folder(folder: Path, **changes: Any) -> Path:
    """A BERT with random weights, large enough that its states differ; reads POSITIONS tokens at most."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {f"{name.strip('[]').lower()}_token": name for name in names[:5]}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **marks
    ).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(names),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(**{**sizes, **changes}))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder

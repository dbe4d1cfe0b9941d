"""A service that takes means must be asked for all rows of a mean at once."""

from __future__ import annotations

import torch
from tinker.lib.public_interfaces.training_client import _estimate_datum_bytes_count_proto
from tinker.types.client_config_response import ClientConfigResponse

from refine_rl.engines.tinker.datums import datums
from refine_rl.engines.tinker.weights import AT_ONCE, TOKENS_AT_ONCE, requests
from refine_rl.policy.tokens import TokenBatch


def test_no_request_is_one_that_the_sdk_cuts() -> None:
    """It would be two means then, whose rows count otherwise."""
    lengths = (TOKENS_AT_ONCE // AT_ONCE,) * AT_ONCE
    ids = torch.ones(AT_ONCE, lengths[0], dtype=torch.long)
    batch = TokenBatch(
        ids=ids,
        attention=ids.bool(),
        trainable=ids.bool(),
        sampled=ids.bool(),
        prompts=(1,) * AT_ONCE,
        lengths=lengths,
    )
    assert list(requests(lengths)) == [range(AT_ONCE)]
    size = sum(map(_estimate_datum_bytes_count_proto, datums(batch, ids.float(), ids.float())))
    cut = ClientConfigResponse()
    assert size < cut.fwdbwd_max_chunk_bytes_count
    assert cut.fwdbwd_max_chunk_len > AT_ONCE


def test_long_rows_are_fewer_at_once() -> None:
    assert [len(some) for some in requests([4_000] * 60)] == [25, 25, 10]
    assert [len(some) for some in requests([1] * 300)] == [128, 128, 44]
    assert list(requests([])) == []

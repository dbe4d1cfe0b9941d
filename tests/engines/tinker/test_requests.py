"""Rows go to a service in as few requests as its SDK sends; of a mean, all rows in one."""

from __future__ import annotations

import pytest
import torch
from tinker.lib.public_interfaces.training_client import _estimate_datum_bytes_count_proto
from tinker.types.client_config_response import ClientConfigResponse

from refine_rl.engines.tinker.datums import datums
from refine_rl.engines.tinker.weights import OF_MEANS, WHOLE, Most, requests
from refine_rl.policy.tokens import TokenBatch


def request(most: Most) -> TokenBatch:
    """The largest that there may be."""
    at_once, tokens = most
    lengths = (tokens // at_once,) * at_once
    ids = torch.ones(at_once, lengths[0], dtype=torch.long)
    return TokenBatch(
        ids=ids,
        attention=ids.bool(),
        trainable=ids.bool(),
        sampled=ids.bool(),
        prompts=(1,) * at_once,
        lengths=lengths,
    )


@pytest.mark.parametrize("most", [WHOLE, OF_MEANS])
def test_no_request_is_one_that_the_sdk_cuts(most: Most) -> None:
    """It would be two means then, whose rows count otherwise."""
    batch = request(most)
    assert list(requests(batch.lengths, most)) == [range(most[0])]
    zeros = torch.zeros(batch.ids.shape)
    size, cut = (
        sum(map(_estimate_datum_bytes_count_proto, datums(batch, zeros, zeros))),
        ClientConfigResponse(),
    )
    assert size <= cut.fwdbwd_max_chunk_bytes_count
    assert most[0] <= cut.fwdbwd_max_chunk_len
    if most == WHOLE:  # and a tenth more would be one too many
        assert 1.1 * size > cut.fwdbwd_max_chunk_bytes_count
        assert most[0] == cut.fwdbwd_max_chunk_len


def test_long_rows_are_fewer_at_once() -> None:
    assert [len(some) for some in requests([4_000] * 60, OF_MEANS)] == [25, 25, 10]
    assert [len(some) for some in requests([1] * 300, OF_MEANS)] == [128, 128, 44]
    assert [len(some) for some in requests([1] * 1_500, WHOLE)] == [1_024, 476]
    assert list(requests([], WHOLE)) == []

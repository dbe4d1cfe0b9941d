"""The bytes of the protocol that are protobuf: the SDK's own messages, read and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinker_server.lora import Sampled, WrongRequestError

Row = tuple[list[int], dict[str, Tensor]]  # the ids that go in, and what the loss is given a position


def read_forward_backward(body: bytes) -> dict[str, Any]:
    """The request as JSON would have it, with its `data` as rows."""
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.ForwardBackwardRequest()
    message.ParseFromString(body)
    return {
        "model_id": message.model_id,
        "seq_id": message.seq_id,
        "loss_fn": message.loss_fn,
        "loss_fn_config": dict(message.loss_fn_config),
        "forward_only": message.forward_only,
        "data": [_row(datum) for datum in message.data],
    }


def _row(datum: Any) -> Row:
    ids: list[int] = []
    for chunk in datum.model_input:
        if not chunk.HasField("encoded_text"):
            raise WrongRequestError("only tokens of text are taken here")
        ids += np.frombuffer(chunk.encoded_text.tokens, np.int32).tolist()
    return ids, {name: _tensor(tensor) for name, tensor in datum.loss_fn_inputs.items()}


def _tensor(tensor: Any) -> Tensor:
    from tinker.proto import tinker_public_pb2 as pb

    if tensor.HasField("sparse_csr"):
        raise WrongRequestError("only dense tensors are taken here")
    kind = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64}[tensor.dtype]
    flat = torch.from_numpy(np.frombuffer(tensor.dense, kind).copy())
    return flat.reshape(list(tensor.shape)) if tensor.shape else flat


def forward_backward_output(logprobs: Sequence[Tensor], metrics: dict[str, float]) -> bytes:
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics=metrics)
    record = message.loss_fn_outputs.add(num_datums=len(logprobs))
    rows = [row_T.detach().numpy().astype(np.float32) for row_T in logprobs]
    field = record.fields["logprobs"]
    field.dtype = pb.DTYPE_FLOAT32
    field.data = b"".join(row.tobytes() for row in rows)
    field.offsets = np.cumsum([0, *(row.nbytes for row in rows)]).astype(np.int64).tobytes()
    return bytes(message.SerializeToString())


def sample_response(sampled: Sequence[Sampled], prompt_logprobs: Sequence[float] | None) -> bytes:
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.SampleResponse()
    for each in sampled:
        message.sequences.add(
            stop_reason=pb.STOP_REASON_STOP if each.stopped else pb.STOP_REASON_LENGTH,
            tokens=np.array(each.tokens, np.int32).tobytes(),
            logprobs=np.array(each.logprobs, np.float32).tobytes(),
        )
    if prompt_logprobs is not None:
        message.prompt_logprobs = np.array(prompt_logprobs, np.float32).tobytes()
    return bytes(message.SerializeToString())

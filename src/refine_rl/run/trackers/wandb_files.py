"""What the files of Weights & Biases on this machine hold. Its process writes them some seconds late, and is
gone with ours where that is killed: only the files say which steps they have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_FILE_HEADER = 7  # ":W&B", two bytes, and the version
_BLOCK = 32768
_HEADER = 7  # checksum (4 bytes), length (2), kind (1)
_WHOLE, _LAST = 1, 4


def newest_step(folder: Path, run: str) -> int:
    """The last step in the files of a run, of all its processes; -1 where there is none."""
    from wandb.proto import wandb_internal_pb2 as proto

    newest = -1
    for file in folder.glob(f"*run-*-{run}/*.wandb"):
        for data in records(file.read_bytes()):
            record = proto.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                newest = max(newest, record.history.step.num)
    return newest


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file, a log as LevelDB has it (blocks of 32 KiB, records in parts). A last one that
    was cut is left out."""
    place, parts = _FILE_HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        start = place + _HEADER
        if start + size > len(data):
            return
        place, parts = start + size, parts + data[start : start + size]
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""

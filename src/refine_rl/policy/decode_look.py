"""What rows that are being sampled look at, and attention on it.

The functions are written so that torch can compile them to a program of its own (torch.jit), which runs
without Python's lock: decode_lanes.py. They are called as they stand as well.
"""

from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """Keys and values of R rows of P prompts; M is the most rows of one. Lists have an entry a layer."""

    prefix_k: list[torch.Tensor]  # [P K, D, L]: with tokens last a product of few rows with them is faster
    prefix_v: list[torch.Tensor]  # [P K, L, D]
    own_k: list[torch.Tensor]  # [R, K, D, room]
    own_v: list[torch.Tensor]  # [R, K, room, D]
    table: torch.Tensor  # [P, M]: a prompt's rows; places without a row hold another row's
    back: torch.Tensor  # [R]: a row's place in the table
    full: bool  # all prompts have M rows
    outside: torch.Tensor  # [P, L]: what is behind a shorter prompt; empty where all are of one length
    empty: torch.Tensor  # [R]: columns before a row's first; empty where there are none
    first: torch.Tensor  # [R]: the position of column 0


def by_prompt(x: torch.Tensor, table: torch.Tensor, full: bool) -> torch.Tensor:
    """[R, K, rep, n] -> [P K, M rep, n], so that a prompt is read once for all its rows."""
    _, K, rep, n = x.shape
    grouped = x.view(-1, table.shape[1], K, rep, n) if full else x[table]
    return grouped.transpose(1, 2).reshape(-1, table.shape[1] * rep, n)


def by_row(x: torch.Tensor, K: int, table: torch.Tensor, back: torch.Tensor, full: bool) -> torch.Tensor:
    """The way back, [P K, M rep, n] -> [R, K, rep, n]."""
    most = table.shape[1]
    grouped = x.reshape(-1, K, most, x.shape[1] // most, x.shape[2]).transpose(1, 2).flatten(0, 1)
    return grouped if full else grouped[back]


def attend(
    rows: Rows,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    end: int,
    whole: bool,
    scale: float,
    early: bool,
    window: int,
) -> torch.Tensor:
    """What the token in column `end` of each row sees, [R, H, D]; its keys and values, [R, K, D], are put
    there. With `whole` all columns are looked at, and those that are not written yet are masked."""
    rows.own_k[layer][:, :, :, end] = key
    rows.own_v[layer][:, :, end] = value
    (R, H, D), K = query.shape, key.shape[1]
    columns = end + 1
    later = torch.empty(0)
    if whole:
        columns = rows.own_k[layer].shape[3]
        later = (torch.arange(columns, device=query.device) > end)[None]
    q = query.reshape(R, K, H // K, 1, D)
    return look(rows, layer, q, columns, later, end, scale, early, window).reshape(R, H, D)


def look(
    rows: Rows,
    layer: int,
    query: torch.Tensor,
    columns: int,
    later: torch.Tensor,
    end: int,
    scale: float,
    early: bool,
    window: int,
) -> torch.Tensor:
    """What m tokens of each row see of its prompt and of the first `columns` of its own; the last token is
    the one in column `end`: [R, K, rep, m, D] -> the same. `later`, [m, columns]: what stands behind each of
    them; empty where there is nothing. `early`: see attention.scale_queries."""
    R, K, rep, m, D = query.shape
    own_k = rows.own_k[layer][:, :, :, :columns]
    own_v = rows.own_v[layer][:, :, :columns]
    prefix_k, prefix_v = rows.prefix_k[layer], rows.prefix_v[layer]
    P, L = prefix_k.shape[0] // K, prefix_k.shape[2]
    q = (query * scale if early else query).flatten(2, 3)  # [R, K, rep m, D]
    before = torch.bmm(by_prompt(q, rows.table, rows.full), prefix_k)
    if len(rows.outside):
        before.view(P, -1, L).masked_fill_(rows.outside[:, None], float("-inf"))
    own = torch.matmul(q, own_k)  # [R, K, rep m, columns]
    if len(rows.empty) or len(later):
        own.view(R, K, rep, m, columns).masked_fill_(_hidden(rows, columns, later), float("-inf"))
    scores = torch.cat([before, by_prompt(own, rows.table, rows.full)], dim=-1)  # [P K, M rep m, L + columns]
    if not early:
        scores = scores.float().mul_(scale)
    if window > 0:
        far = _far(rows, L, columns, m, end, window)[rows.table][:, None, :, None]
        scores.view(P, K, rows.table.shape[1], rep, m, -1).masked_fill_(far, float("-inf"))
    weights = scores.softmax(-1).to(own_v.dtype)
    inner = torch.bmm(weights[:, :, :L], prefix_v)
    found = by_row(inner, K, rows.table, rows.back, rows.full)
    own = by_row(weights[:, :, L:], K, rows.table, rows.back, rows.full)
    return (found + torch.matmul(own, own_v)).reshape(R, K, rep, m, D)


def _hidden(rows: Rows, columns: int, later: torch.Tensor) -> torch.Tensor:
    """What stands behind a token or before its row's first, [R or 1, 1, 1, m or 1, columns]."""
    if not len(rows.empty):
        return later[None, None, None]
    place = torch.arange(columns, device=rows.empty.device)
    empty = (place[None] < rows.empty[:, None])[:, None, None, None]
    return empty | later[None, None, None] if len(later) else empty


def _far(rows: Rows, L: int, columns: int, m: int, end: int, window: int) -> torch.Tensor:
    """What lies outside of the window of each row's m tokens up to column `end`, [R, m, L + columns]."""
    device = rows.first.device
    own = rows.first[:, None] + torch.arange(columns, device=device)[None]
    before = torch.arange(L, device=device)[None].expand(len(own), L)
    return own[:, end + 1 - m : end + 1, None] - torch.cat([before, own], dim=1)[:, None] >= window

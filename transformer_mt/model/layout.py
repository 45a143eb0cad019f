"""`Layout` owns where sequences lie in a batch. `Batch` is one forward pass's input.

Sequences stand packed one behind the other, without padding between them, so that every layer but attention is a
plain function of rows. Behind the last may follow a tail of padding rows: it rounds the number of rows up, so that
matrix products see few different shapes, and nothing that a real row computes depends on it.

Shapes: B sequences, L positions of the longest, P rows (the tail included), N real rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformer_mt.text.vocabulary import BOS_ID, PAD_ID

ROWS_MULTIPLE = 64  # to which training rounds rows up: few different shapes of matrix products, less than 2 % more rows

IdArray = npt.NDArray[np.int64]
IdSequence = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Layout:
    """Sequences of different lengths as rows of one matrix, and the way to a padded (B, L) table and back.

    All that a layer needs as a number of the host is one here, so that none waits for the device to learn a shape.
    """

    positions_P: Tensor  # int64, each row's place in its sequence; 0 in the tail
    offsets: Tensor  # int32 (B + 2), the first row of each sequence, of the tail, and the number of rows
    rows_BL: Tensor | None  # int64, the row of each cell of the table, a tail row for padding; None: none is padding
    cells_N: Tensor | None  # int64, the cell of each real row; None as above
    num_sequences: int
    max_length: int
    num_real: int
    num_rows: int

    @classmethod
    def packed(cls, lengths: Sequence[int], multiple: int = 1) -> Layout:
        """Lay out sequences of these lengths, on the host, the number of rows rounded up to ``multiple``."""
        if not lengths or min(lengths) < 1:
            raise ValueError(f"a layout needs sequences of one position or more, found lengths {list(lengths)}")
        lengths_B = np.asarray(lengths, dtype=np.int64)
        longest, num_real = int(lengths_B.max()), int(lengths_B.sum())
        is_full = num_real == len(lengths_B) * longest
        num_rows = -(-(num_real if is_full else num_real + 1) // multiple) * multiple
        offsets = np.cumsum([0, *lengths_B, num_rows - num_real])
        is_real_BL = np.arange(longest) < lengths_B[:, None]
        positions_P = np.zeros(num_rows, dtype=np.int64)
        positions_P[:num_real] = np.broadcast_to(np.arange(longest), is_real_BL.shape)[is_real_BL]
        rows_BL = None if is_full else np.where(is_real_BL, offsets[:-2, None] + np.arange(longest), num_real)
        return cls(
            torch.from_numpy(positions_P),
            torch.from_numpy(offsets.astype(np.int32)),
            None if rows_BL is None else torch.from_numpy(rows_BL),
            None if is_full else torch.from_numpy(np.flatnonzero(is_real_BL)),
            len(lengths_B),
            longest,
            num_real,
            num_rows,
        )

    def to(self, device: torch.device) -> Layout:
        return Layout(*_moved(self, device))

    @cached_property
    def bias_BL(self) -> Tensor | None:
        """Return what is added to attention scores: 0 at real positions, -inf at padding (float32).

        It is None where there is no padding.
        """
        if self.rows_BL is None:
            return None
        return torch.zeros(self.rows_BL.shape, device=self.rows_BL.device).masked_fill_(
            self.rows_BL == self.num_real, float("-inf")
        )

    def unpack(self, x_PC: Tensor) -> Tensor:
        """Return rows (P, C) as a padded table (B, L, C). Padding holds a row of the tail."""
        cells = x_PC[: self.num_real] if self.rows_BL is None else x_PC.index_select(0, self.rows_BL.flatten())
        return cells.view(self.num_sequences, self.max_length, -1)

    def pack(self, x_BLC: Tensor) -> Tensor:
        """Return a padded table (B, L, C) as rows (P, C); the tail is 0."""
        cells = x_BLC.flatten(0, 1)
        real_NC = cells if self.cells_N is None else cells.index_select(0, self.cells_N)
        if self.num_rows == self.num_real:
            return real_NC
        return torch.cat([real_NC, real_NC.new_zeros(self.num_rows - self.num_real, real_NC.shape[1])])


@dataclass(frozen=True)
class Batch:
    """One micro-batch: ``src_ids`` = [tags] pieces </s>, ``tgt_in`` = <s> pieces, ``labels`` = pieces </s>."""

    src_ids_P: Tensor
    src: Layout
    tgt_in_P: Tensor
    tgt: Layout
    labels_N: Tensor

    @property
    def num_labels(self) -> int:
        return self.tgt.num_real

    def to(self, device: torch.device) -> Batch:
        return Batch(*_moved(self, device))


def _moved(value: Layout | Batch, device: torch.device) -> list[Any]:
    def move(field: Any) -> Any:
        if isinstance(field, Tensor):
            return field.to(device, non_blocking=True)
        return field.to(device) if isinstance(field, Layout) else field

    return [move(getattr(value, field.name)) for field in fields(value)]


def collate_source(src: Sequence[IdSequence], multiple: int = 1) -> tuple[Tensor, Layout]:
    """Return source sequences (each ending in </s>) as rows of ids (P) and their layout, on the host."""
    layout = Layout.packed([len(ids) for ids in src], multiple)
    return torch.from_numpy(_rows(src, layout.num_rows)), layout


def collate(src: Sequence[IdSequence], tgt: Sequence[IdSequence], multiple: int = 1) -> Batch:
    """Build a batch on the host from source and target sequences that each end in </s>.

    ``tgt_in`` is the target shifted right behind a real <s>, so position t predicts ``labels[t]`` from the
    labels before it.
    """
    src_ids_P, src_layout = collate_source(src, multiple)
    tgt_layout = Layout.packed([len(ids) for ids in tgt], multiple)
    labels_P = _rows(tgt, tgt_layout.num_rows)
    tgt_in_P = np.roll(labels_P, 1)
    tgt_in_P[tgt_layout.offsets[:-2].numpy()] = BOS_ID  # where the </s> of the sequence before would stand
    tgt_in_P[tgt_layout.num_real :] = PAD_ID
    return Batch(
        src_ids_P,
        src_layout,
        torch.from_numpy(tgt_in_P),
        tgt_layout,
        torch.from_numpy(labels_P[: tgt_layout.num_real]),
    )


def _rows(sequences: Sequence[IdSequence], num_rows: int) -> IdArray:
    """Return id sequences one behind the other, filled up with the padding id."""
    rows = np.full(num_rows, PAD_ID, dtype=np.int64)
    joined = np.concatenate(sequences)
    rows[: len(joined)] = joined
    return rows

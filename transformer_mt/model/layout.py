"""`Layout` owns where sequences lie in a batch. `Batch` is one forward pass's input.

Sequences stand packed one behind the other, without padding between them, so that every layer but attention is a
plain function of rows. Behind the last may follow a tail of padding rows: it rounds the number of rows up, so that
matrix products see few different shapes, and nothing that a real row computes depends on it.

Shapes: B sequences, L positions of the longest, P rows (the tail included), N real rows, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
Joined = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]  # ids of all sequences; how many each has


@dataclass(frozen=True)
class Layout:
    """Sequences of different lengths as rows of one matrix, and the way to a padded (B, L) table and back.

    All that a layer needs as a number of the host is one here, so that none waits for the device to learn a shape.
    """

    positions_P: Tensor  # int64, each row's place in its sequence; 0 in the tail
    offsets: Tensor  # int32 (B + 2), the first row of each sequence, of the tail, and the number of rows
    num_sequences: int
    max_length: int
    num_real: int
    num_rows: int

    @classmethod
    def packed(cls, lengths: Sequence[int] | npt.NDArray[np.integer[Any]], multiple: int = 1) -> Layout:
        """Lay out sequences of these lengths, on the host, the number of rows rounded up to ``multiple``."""
        lengths_B = np.asarray(lengths, dtype=np.int64)
        if len(lengths_B) == 0 or lengths_B.min() < 1:
            raise ValueError(f"a layout needs sequences of one position or more, found lengths {list(lengths)}")
        longest, num_real = int(lengths_B.max()), int(lengths_B.sum())
        has_padding = num_real < len(lengths_B) * longest
        num_rows = -(-(num_real + 1 if has_padding else num_real) // multiple) * multiple
        offsets = np.cumsum([0, *lengths_B, num_rows - num_real])
        positions_P = np.zeros(num_rows, dtype=np.int64)
        positions_P[:num_real] = np.arange(num_real) - np.repeat(offsets[:-2], lengths_B)
        return cls(
            torch.from_numpy(positions_P),
            torch.from_numpy(offsets.astype(np.int32)),
            len(lengths_B),
            longest,
            num_real,
            num_rows,
        )

    # What padded tables need is made where one is asked for, on its device: kernels for packed rows ask for none.

    @property
    def has_padding(self) -> bool:
        return self.num_real < self.num_sequences * self.max_length

    @cached_property
    def rows_BL(self) -> Tensor | None:
        """Return the row of each cell of the table (int64), a tail row for padding; None where there is no padding."""
        if not self.has_padding:
            return None
        begins_B1, ends_B1 = self.offsets[:-2, None], self.offsets[1:-1, None]
        rows_BL = begins_B1 + torch.arange(self.max_length, device=self.offsets.device)
        return rows_BL.masked_fill_(rows_BL >= ends_B1, self.num_real)

    @cached_property
    def cells_N(self) -> Tensor | None:
        """Return the cell of each real row (int64); None where there is no padding."""
        if not self.has_padding:
            return None
        device, begins_B, ends_B = self.offsets.device, self.offsets[:-2], self.offsets[1:-1]
        cells_B = torch.arange(0, self.num_sequences * self.max_length, self.max_length, device=device)
        # With its size given, the host need not wait for the sum of the lengths.
        shifts_N = (cells_B - begins_B).repeat_interleave(ends_B - begins_B, output_size=self.num_real)
        return shifts_N + torch.arange(self.num_real, device=device)

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
        """Return the batch on a device; to CUDA it is copied from pinned memory, and the host need not wait.

        PyTorch keeps that memory until the copy is done.
        """
        if self.labels_N.device.type == device.type:
            return self
        return self.copied(lambda buffer: buffer.to(device, non_blocking=True), pin=device.type == "cuda")

    def copied(self, copy: Callable[[Tensor], Tensor], pin: bool = False) -> Batch:
        """Copy all tensors at once: one after the other as one buffer of bytes, pinned where that is asked for."""
        # int64 first, int32 last, so that each begins at a multiple of its own size.
        tensors = [self.src_ids_P, self.src.positions_P, self.tgt_in_P, self.tgt.positions_P, self.labels_N]
        tensors += [self.src.offsets, self.tgt.offsets]
        sizes = [tensor.nbytes for tensor in tensors]
        buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pin)
        for tensor, part in zip(tensors, buffer.split(sizes), strict=True):
            part.view(tensor.dtype).copy_(tensor)
        parts = copy(buffer).split(sizes)
        src_ids_P, src_positions_P, tgt_in_P, tgt_positions_P, labels_N, src_offsets, tgt_offsets = (
            part.view(tensor.dtype) for tensor, part in zip(tensors, parts, strict=True)
        )
        return Batch(
            src_ids_P,
            replace(self.src, positions_P=src_positions_P, offsets=src_offsets),
            tgt_in_P,
            replace(self.tgt, positions_P=tgt_positions_P, offsets=tgt_offsets),
            labels_N,
        )


def collate(src: Sequence[IdSequence], tgt: Sequence[IdSequence], multiple: int = 1) -> Batch:
    """Build a batch on the host from source and target sequences that each end in </s>; see `collate_joined`."""
    return collate_joined(_joined(src), _joined(tgt), multiple)


def collate_joined(src: Joined, tgt: Joined, multiple: int = 1) -> Batch:
    """Build a batch on the host from source and target sequences that each end in </s>.

    ``tgt_in`` is the target shifted right behind a real <s>, so position t predicts ``labels[t]`` from the
    labels before it.
    """
    (src_ids, src_lengths), (tgt_ids, tgt_lengths) = src, tgt
    src_layout, tgt_layout = Layout.packed(src_lengths, multiple), Layout.packed(tgt_lengths, multiple)
    src_ids_P, labels_P = _rows(src_ids, src_layout), _rows(tgt_ids, tgt_layout)
    tgt_in_P = np.roll(labels_P, 1)
    tgt_in_P[tgt_layout.offsets[:-2].numpy()] = BOS_ID  # where the </s> of the sequence before would stand
    tgt_in_P[tgt_layout.num_real :] = PAD_ID
    return Batch(
        torch.from_numpy(src_ids_P),
        src_layout,
        torch.from_numpy(tgt_in_P),
        tgt_layout,
        torch.from_numpy(labels_P[: tgt_layout.num_real]),
    )


def _joined(sequences: Sequence[IdSequence]) -> Joined:
    return np.concatenate(sequences), np.array([len(ids) for ids in sequences])


def _rows(ids: npt.NDArray[np.integer[Any]], layout: Layout) -> IdArray:
    """Return ids as rows of a layout, its tail filled up with the padding id."""
    rows_P = np.full(layout.num_rows, PAD_ID, dtype=np.int64)
    rows_P[: layout.num_real] = ids
    return rows_P

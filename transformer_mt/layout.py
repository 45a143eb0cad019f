"""`Layout` owns padding: which positions of a batch of sequences are real. `Batch` is one forward pass's input.

Shapes: B batch, S source, T target, L either of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")

IdArray = npt.NDArray[np.int64]
IdSequence = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Layout:
    """Sequences of different lengths, padded on the right to the longest.

    The longest length and whether anything is padded at all are host values, so that no layer has to wait for
    the device to learn a shape.
    """

    lengths_B: Tensor  # int64
    max_length: int
    is_full: bool  # no padding anywhere

    @classmethod
    def padded(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"a layout needs sequences of one position or more, found lengths {list(lengths)}")
        return cls(torch.tensor(lengths, device=device), max(lengths), min(lengths) == max(lengths))

    def attention_bias_BL(self, dtype: torch.dtype) -> Tensor | None:
        """0 at real positions and -inf at padding, to be added to attention scores; None when all are real."""
        if self.is_full:
            return None
        positions_L = torch.arange(self.max_length, device=self.lengths_B.device)
        is_padding_BL = positions_L >= self.lengths_B[:, None]
        return torch.zeros(is_padding_BL.shape, dtype=dtype, device=positions_L.device).masked_fill_(
            is_padding_BL, float("-inf")
        )

    def select(self, keep_B: Tensor) -> Layout:
        """The layout of some of the sequences; the padded width stays."""
        return Layout(self.lengths_B[keep_B], self.max_length, self.is_full)


@dataclass(frozen=True)
class Batch:
    """One micro-batch: ``src_ids`` = [tags] pieces </s>, ``tgt_in`` = <s> pieces, ``labels`` = pieces </s>."""

    src_ids_BS: Tensor
    src: Layout
    tgt_in_BT: Tensor
    labels_BT: Tensor
    tgt: Layout
    label_rows: Tensor | None  # int64 positions in the flattened labels that are real; None when all are
    num_labels: int

    def to(self, device: torch.device) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            move(self.src_ids_BS),
            Layout(move(self.src.lengths_B), self.src.max_length, self.src.is_full),
            move(self.tgt_in_BT),
            move(self.labels_BT),
            Layout(move(self.tgt.lengths_B), self.tgt.max_length, self.tgt.is_full),
            None if self.label_rows is None else move(self.label_rows),
            self.num_labels,
        )


def pad_ids(sequences: Sequence[IdSequence]) -> IdArray:
    """Stack id sequences into an array (B, longest) filled up with the padding id."""
    padded = np.full((len(sequences), max(len(s) for s in sequences)), PAD_ID, dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    return padded


def collate_source(src: Sequence[IdSequence], device: torch.device | str = "cpu") -> tuple[Tensor, Layout]:
    """Source sequences (each ending in </s>) as padded ids (B, S) and their layout."""
    return torch.from_numpy(pad_ids(src)).to(device), Layout.padded([len(ids) for ids in src], device)


def collate(src: Sequence[IdSequence], tgt: Sequence[IdSequence]) -> Batch:
    """Build a batch on the host from source and target sequences that each end in </s>.

    ``tgt_in`` is the target shifted right behind a real <s>, so position t predicts ``labels[t]`` from the
    labels before it.
    """
    src_ids_BS, src_layout = collate_source(src)
    labels_BT = pad_ids(tgt)
    lengths = [len(ids) for ids in tgt]
    tgt_layout = Layout.padded(lengths)
    is_real_BT = np.arange(labels_BT.shape[1]) < np.array(lengths)[:, None]
    tgt_in_BT = np.full_like(labels_BT, PAD_ID)
    tgt_in_BT[:, 0] = BOS_ID
    # A position is fed where it is real; the </s> of a shorter sentence is a label only, never an input.
    tgt_in_BT[:, 1:] = np.where(is_real_BT[:, 1:], labels_BT[:, :-1], PAD_ID)
    rows = None if tgt_layout.is_full else torch.from_numpy(np.flatnonzero(is_real_BT))
    return Batch(
        src_ids_BS,
        src_layout,
        torch.from_numpy(tgt_in_BT),
        torch.from_numpy(labels_BT),
        tgt_layout,
        rows,
        sum(lengths),
    )

"""Collation: targets shifted right behind a real <s>, labels that end in </s>, and which positions are real."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.layout import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID, Layout, collate, collate_source, pad_ids

INF = float("inf")


def test_special_ids_are_the_contract() -> None:
    assert (PAD_ID, UNK_ID, BOS_ID, EOS_ID) == (0, 1, 2, 3)
    assert SPECIALS == ("<pad>", "<unk>", "<s>", "</s>")


def test_batch_by_hand() -> None:
    batch = collate([[7, 3], [8, 9, 3]], [[5, 6, 3], [3]])
    assert batch.src_ids_BS.tolist() == [[7, 3, 0], [8, 9, 3]]
    assert batch.tgt_in_BT.tolist() == [[2, 5, 6], [2, 0, 0]]  # </s> of the short one is no input
    assert batch.labels_BT.tolist() == [[5, 6, 3], [3, 0, 0]]
    assert (batch.src.lengths_B.tolist(), batch.src.max_length, batch.src.is_full) == ([2, 3], 3, False)
    assert (batch.tgt.lengths_B.tolist(), batch.tgt.max_length, batch.tgt.is_full) == ([3, 1], 3, False)
    assert batch.label_rows is not None
    assert batch.label_rows.tolist() == [0, 1, 2, 3]
    assert batch.num_labels == 4
    tensors = batch.src_ids_BS, batch.tgt_in_BT, batch.labels_BT, batch.label_rows, batch.src.lengths_B
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_full_batch_has_no_rows_to_pick() -> None:
    batch = collate([[7, 3], [8, 3]], [[5, 3], [6, 3]])
    assert batch.src.is_full and batch.tgt.is_full
    assert batch.label_rows is None
    assert batch.num_labels == 4
    assert batch.tgt_in_BT.tolist() == [[2, 5], [2, 6]]


def test_sides_are_full_or_not_each_for_itself() -> None:
    batch = collate([[7, 3], [3]], [[5, 3], [6, 3]])
    assert (batch.src.is_full, batch.tgt.is_full) == (False, True)
    assert batch.label_rows is None


def test_attention_bias_hides_padding_only() -> None:
    bias = Layout.padded([1, 3]).attention_bias_BL(torch.float64)
    assert bias is not None
    assert bias.dtype == torch.float64
    assert bias.tolist() == [[0.0, -INF, -INF], [0.0, 0.0, 0.0]]
    assert Layout.padded([2, 2]).attention_bias_BL(torch.float32) is None


def test_selected_sentences_keep_the_padded_width() -> None:
    chosen = Layout.padded([1, 3, 2]).select(torch.tensor([2, 0]))
    assert (chosen.lengths_B.tolist(), chosen.max_length, chosen.is_full) == ([2, 1], 3, False)
    bias = chosen.attention_bias_BL(torch.float32)
    assert bias is not None
    assert bias.tolist() == [[0.0, 0.0, -INF], [0.0, -INF, -INF]]


@pytest.mark.parametrize("lengths", [[], [0], [3, 0]])
def test_layout_needs_positions(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="sequences of one position or more"):
        Layout.padded(lengths)


def test_moving_changes_nothing() -> None:
    batch = collate([[7, 3], [8, 9, 3]], [[5, 6, 3], [3]])
    moved = batch.to(torch.device("cpu"))
    assert moved.label_rows is not None and batch.label_rows is not None
    assert torch.equal(moved.label_rows, batch.label_rows)
    for name in ("src_ids_BS", "tgt_in_BT", "labels_BT"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))
    for one, other in ((moved.src, batch.src), (moved.tgt, batch.tgt)):
        assert (one.lengths_B.tolist(), one.max_length, one.is_full) == (
            other.lengths_B.tolist(),
            other.max_length,
            other.is_full,
        )
    assert moved.num_labels == 4


# Pieces have ids from 4; every side ends in </s>.
sides = st.lists(st.integers(4, 99), max_size=6).map(lambda pieces: [*pieces, EOS_ID])
pairs = st.lists(st.tuples(sides, sides), min_size=1, max_size=6)


@given(pairs, st.booleans())
def test_every_position_is_what_its_sentence_says(pairs: list[tuple[list[int], list[int]]], as_arrays: bool) -> None:
    src, tgt = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    # The id store yields slices of uint16 arrays.
    kind = (lambda ids: np.array(ids, dtype=np.uint16)) if as_arrays else list
    batch = collate([kind(ids) for ids in src], [kind(ids) for ids in tgt])
    width = max(map(len, tgt))
    for row, ids in enumerate(tgt):
        padding = [PAD_ID] * (width - len(ids))
        assert batch.labels_BT[row].tolist() == ids + padding
        assert batch.tgt_in_BT[row].tolist() == [BOS_ID, *ids[:-1], *padding]
    for row, ids in enumerate(src):
        assert batch.src_ids_BS[row].tolist() == ids + [PAD_ID] * (max(map(len, src)) - len(ids))
    # Real labels, in order, are the targets one after the other.
    flat = batch.labels_BT.flatten()
    real = flat if batch.label_rows is None else flat[batch.label_rows]
    assert real.tolist() == [i for ids in tgt for i in ids]
    assert batch.num_labels == sum(map(len, tgt))
    assert (batch.label_rows is None) == batch.tgt.is_full == (len(set(map(len, tgt))) == 1)
    ids_BS, layout = collate_source(src)
    assert torch.equal(ids_BS, batch.src_ids_BS)
    assert layout.lengths_B.tolist() == [len(ids) for ids in src]


def test_padding_does_not_touch_what_it_was_made_from() -> None:
    ids = np.array([5, 3], dtype=np.uint16)
    padded = pad_ids([ids, ids])
    padded[:] = 9
    assert ids.tolist() == [5, 3]

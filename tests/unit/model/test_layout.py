"""Collation: targets shifted right behind a real <s>, labels that end in </s>, and where each sequence lies."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.model.layout import Layout, collate
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID

INF = float("inf")


def test_special_ids_are_the_contract() -> None:
    assert (PAD_ID, UNK_ID, BOS_ID, EOS_ID) == (0, 1, 2, 3)
    assert SPECIALS == ("<pad>", "<unk>", "<s>", "</s>")


def test_batch_by_hand() -> None:
    batch = collate([[7, 3], [8, 9, 3]], [[5, 6, 3], [3]], multiple=4)
    assert batch.src_ids_P.tolist() == [7, 3, 8, 9, 3, 0, 0, 0]
    assert batch.tgt_in_P.tolist() == [2, 5, 6, 2, 0, 0, 0, 0]  # </s> of the first is no input of the second
    assert batch.labels_N.tolist() == [5, 6, 3, 3]
    src, tgt = batch.src, batch.tgt
    assert (src.num_sequences, src.max_length, src.num_real, src.num_rows) == (2, 3, 5, 8)
    assert (tgt.num_sequences, tgt.max_length, tgt.num_real, tgt.num_rows) == (2, 3, 4, 8)
    assert src.positions_P.tolist() == [0, 1, 0, 1, 2, 0, 0, 0]
    assert src.offsets.tolist() == [0, 2, 5, 8]
    assert src.rows_BL is not None and src.cells_N is not None
    assert src.rows_BL.tolist() == [[0, 1, 5], [2, 3, 4]]  # row 5 is the first of the tail
    assert src.cells_N.tolist() == [0, 1, 3, 4, 5]
    assert {ids.dtype for ids in (batch.src_ids_P, batch.tgt_in_P, batch.labels_N)} == {torch.int64}


def test_equal_lengths_need_no_tail_and_no_table() -> None:
    layout = Layout.packed([2, 2], multiple=4)
    assert (layout.num_real, layout.num_rows) == (4, 4)
    assert layout.rows_BL is None and layout.cells_N is None and layout.bias_BL is None
    assert layout.offsets.tolist() == [0, 2, 4, 4]


def test_different_lengths_always_have_a_tail_row_for_padding() -> None:
    assert Layout.packed([1, 3], multiple=4).num_rows == 8
    assert Layout.packed([1, 3]).num_rows == 5


def test_attention_bias_hides_padding_only() -> None:
    bias = Layout.packed([1, 3]).bias_BL
    assert bias is not None
    assert bias.tolist() == [[0.0, -INF, -INF], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("lengths", [[], [0], [3, 0]])
def test_layout_needs_positions(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="sequences of one position or more"):
        Layout.packed(lengths)


def test_a_batch_goes_to_another_device_as_one_buffer() -> None:
    batch = collate([[7, 3], [8, 9, 3]], [[5, 6, 3], [3, 3, 3]], multiple=4)
    buffers: list[torch.Tensor] = []

    def copy(buffer: torch.Tensor) -> torch.Tensor:
        buffers.append(buffer.clone())
        return buffers[-1]

    copied = batch.copied(copy)
    [buffer] = buffers
    for one, other in ((copied, batch), (copied.src, batch.src), (copied.tgt, batch.tgt)):
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b) and a.dtype == b.dtype
                assert a.untyped_storage().data_ptr() == buffer.data_ptr() != b.untyped_storage().data_ptr()
            elif not isinstance(a, Layout):
                assert a == b
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {moved.src_ids_P.device.type, moved.src.offsets.device.type, moved.labels_N.device.type} == {"meta"}
    assert moved.src.rows_BL is not None and moved.src.rows_BL.device.type == "meta"


# Pieces have ids from 4; every side ends in </s>.
sides = st.lists(st.integers(4, 99), max_size=6).map(lambda pieces: [*pieces, EOS_ID])
pairs = st.lists(st.tuples(sides, sides), min_size=1, max_size=6)


@given(pairs, st.booleans(), st.integers(1, 9))
def test_every_row_is_what_its_sentence_says(
    pairs: list[tuple[list[int], list[int]]], as_arrays: bool, multiple: int
) -> None:
    src, tgt = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    # The id store yields slices of uint16 arrays.
    kind = (lambda ids: np.array(ids, dtype=np.uint16)) if as_arrays else list
    batch = collate([kind(ids) for ids in src], [kind(ids) for ids in tgt], multiple)

    def filled(ids: list[int], layout: Layout) -> list[int]:
        assert layout.num_rows % multiple == 0
        assert layout.num_rows - len(ids) <= multiple
        return ids + [PAD_ID] * (layout.num_rows - len(ids))

    assert batch.labels_N.tolist() == [i for ids in tgt for i in ids]
    assert batch.tgt_in_P.tolist() == filled([i for ids in tgt for i in [BOS_ID, *ids[:-1]]], batch.tgt)
    assert batch.src_ids_P.tolist() == filled([i for ids in src for i in ids], batch.src)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 9))
def test_a_table_and_back(lengths: list[int], multiple: int) -> None:
    layout = Layout.packed(lengths, multiple)
    rows = torch.arange(layout.num_rows * 2, dtype=torch.float64).view(-1, 2)
    table = layout.unpack(rows)
    start = 0
    for cells, length in zip(table, lengths, strict=True):
        assert torch.equal(cells[:length], rows[start : start + length])
        start += length
    back = layout.pack(table)
    assert torch.equal(back[:start], rows[:start])
    assert back.shape == rows.shape and not back[start:].any()


def test_collation_does_not_touch_what_it_was_made_from() -> None:
    ids = np.array([5, 3], dtype=np.uint16)
    batch = collate([ids, ids], [ids, ids])
    batch.src_ids_P[:] = 9
    batch.labels_N[:] = 9
    assert ids.tolist() == [5, 3]

"""Tokenizers: training and its report, our table of ids, round trips, files, refusals."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text import tokenizer_training as training_module
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers, load_tokenizer
from transformer_mt.text.tokenizer_training import train_tokenizer

UNSEEN = "🙂 한국어 ẞ 𝔘"


def trained(lines: list[str], seed: int = 1, **settings: object) -> tuple[Tokenizer, str]:
    return train_tokenizer(lines, TokenizerConfig.model_validate({"vocab_size": 400, **settings}), seed)


def bare_model(lines: list[str], **settings: Any) -> bytes:
    """A model as SentencePiece trains it by default: <unk> <s> </s> = 0-2 and no padding."""
    out = io.BytesIO()
    spm.set_min_log_level(2)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=200,
        model_type="bpe",
        character_coverage=1.0,
        **settings,
    )
    return out.getvalue()


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_trained_tokenizer_and_its_report(kind: str, grammar_lines: list[str]) -> None:
    tokenizer, report = trained(grammar_lines, type=kind)
    assert report == f"tokenizer: {kind}, 400 pieces from 1,200 lines"
    assert tokenizer.vocab_size == 400
    assert list(tokenizer.table)[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert list(tokenizer.table.values()) == list(range(400))
    encoded = tokenizer.encode(grammar_lines)
    assert [tokenizer.decode(ids) for ids in encoded] == grammar_lines
    assert all(4 <= i < 400 for ids in encoded for i in ids)  # no special in text, nothing unknown
    byte_ids = {tokenizer.table[f"<0x{byte:02X}>"] for byte in range(256)}
    assert sum(i in byte_ids for ids in encoded for i in ids) < 20  # only what coverage 0.9999 left out


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_vocabulary_larger_than_the_text_is_lowered_and_reported(kind: str, grammar_lines: list[str]) -> None:
    tokenizer, report = trained(grammar_lines[:100], type=kind, vocab_size=30000)
    assert 260 < tokenizer.vocab_size < 3000
    assert report == (
        f"tokenizer: {kind}, {tokenizer.vocab_size:,} pieces from 100 lines; "
        "lowered from vocab_size 30,000, more than this text supports"
    )
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(grammar_lines[:100])] == grammar_lines[:100]


def test_sample_is_reported_and_the_same_each_time(grammar_lines: list[str]) -> None:
    one, report = trained(grammar_lines, max_lines=300)
    again, _ = trained(grammar_lines, max_lines=300)
    first, _ = trained(grammar_lines[:300])
    assert report == "tokenizer: bpe, 400 pieces from 300 lines (sampled from 1,200)"
    assert one.fingerprint == again.fingerprint
    assert one.table != first.table  # from everywhere, not from the beginning


def test_the_sample_is_uniform() -> None:
    """Each of 40 lines is in a quarter of 2,000 samples: 500 times with a standard deviation of 19."""
    lines = [f"line {number}" for number in range(40)]
    times = Counter(line for seed in range(2000) for line in training_module.sample_lines(lines, 10, seed).lines)
    assert sum(times.values()) == 20_000
    assert min(times.values()) > 500 - 5 * 19 and max(times.values()) < 500 + 5 * 19


@pytest.mark.parametrize("shared", [True, False])
def test_both_sides_are_sampled_in_one_pass(shared: bool, grammar_lines: list[str]) -> None:
    """Each tokenizer is what the text of its sides gives, and the pairs can be gone through once only."""
    pairs = [*zip(grammar_lines[:-1:2], grammar_lines[1::2], strict=True)]
    settings = TokenizerConfig(vocab_size=330, max_lines=300, shared=shared)
    found = [*training_module.train_tokenizers(iter(pairs), settings, 3)]
    sides = [[side for pair in pairs for side in pair]] if shared else [*zip(*pairs, strict=True)]
    for (tokenizer, report), lines in zip(found, sides, strict=True):
        expected, expected_report = train_tokenizer(lines, settings, 3)
        assert (tokenizer.fingerprint, report) == (expected.fingerprint, expected_report)


def test_long_lines_are_cut_and_none_is_lost(grammar_lines: list[str]) -> None:
    """SentencePiece would leave out what has more bytes than it takes."""
    document = " ".join(grammar_lines)
    assert len(document.encode()) > 3 * training_module._MAX_LINE_BYTES
    sample = training_module.sample_lines([document, "한" * 10_000], 100, 1)
    assert sample.count == len(sample.lines) > 3
    assert "".join(sample.lines) == document + "한" * 10_000
    assert max(len(line.encode()) for line in sample.lines) <= training_module._MAX_LINE_BYTES
    tokenizer, report = trained([document])
    assert tokenizer.encode([grammar_lines[0]])[0]
    assert f"from {-(-len(document) // 4096)} lines" in report


def test_the_sample_is_bounded_in_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it is a sample as before: neither the first nor the last."""
    monkeypatch.setattr(training_module, "_MAX_SAMPLE_CHARACTERS", 1000)
    lines = [f"{number:050d}" for number in range(500)]
    sample = training_module.sample_lines(lines, 10**9, 3)
    assert sample.count == 500
    assert 10 <= len(sample.lines) <= 20
    numbers = list(map(int, sample.lines))
    assert min(numbers) < 250 <= max(numbers)


def test_tags_stand_behind_the_pieces_and_are_no_text(grammar_lines: list[str]) -> None:
    plain, _ = trained(grammar_lines)
    tagged = plain.with_tags(["<2de>", "<law>"])
    assert plain.tags == [] and tagged.tags == ["<2de>", "<law>"]
    assert [tagged.table[tag] for tag in tagged.tags] == [plain.vocab_size, plain.vocab_size + 1]
    assert tagged.vocab_size == plain.vocab_size + 2
    assert tagged.fingerprint != plain.fingerprint
    assert tagged.encode(["<2de> The dog"]) == plain.encode(["<2de> The dog"])
    assert tagged.decode([tagged.table["<2de>"], *tagged.encode(["The dog"])[0]]) == "The dog"
    assert tagged.with_tags(["<law>"]) is tagged
    files = Tokenizers(tagged, tagged).files()
    assert Tokenizers.from_files(files).src.tags == ["<2de>", "<law>"]


def test_what_a_source_starts_with(grammar_lines: list[str]) -> None:
    plain, _ = trained(grammar_lines)
    size = plain.vocab_size
    one, several = Tokenizers(plain, plain), Tokenizers(plain, plain).with_tags(["<2de>", "<2fr>", "<law>"])
    assert one.tag_ids("de", None) == []
    assert several.tag_ids("fr", None) == [size + 1]
    assert several.tag_ids("fr", "law") == [size + 1, size + 2]
    for tokenizers, tgt_lang, tag, message in (
        (one, "de", "law", "no tag <law>; it has none"),
        (several, "ko", None, "no tag <2ko>; it has <2de>, <2fr>"),
        (several, "de", "web", "no tag <web>; it has <law>"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizers.tag_ids(tgt_lang, tag)


def test_stated_tags_are_just_these(grammar_lines: list[str]) -> None:
    """A vocabulary that was imported may have symbols without text which are none."""
    tagged = trained(grammar_lines)[0].with_tags(["<2de>", "<law>", "<spare>"])
    files = Tokenizers(tagged, tagged).files()
    stated = Tokenizers.from_files(files, ["<law>", "<2de>"]).src
    assert stated.tags == ["<2de>", "<law>"] and stated.vocab_size == tagged.vocab_size
    assert stated.with_tags(["<law>", "<web>"]).tags == ["<2de>", "<law>", "<web>"]
    assert Tokenizers.from_files(files, []).src.tags == []
    for tag in ("<2fr>", "</s>", stated.pieces_of([300])[0]):
        with pytest.raises(InputError, match=rf"the tag {re.escape(tag)} is not in vocab\.json, or is a piece of text"):
            Tokenizers.from_files(files, [tag])


def test_tokenizers_travel_between_ranks(grammar_lines: list[str]) -> None:
    tagged = Tokenizers(*[trained(grammar_lines)[0]] * 2).with_tags(["<law>"])
    travelled = pickle.loads(pickle.dumps(tagged))
    assert travelled.is_shared and travelled.src is travelled.tgt
    assert (travelled.fingerprint, travelled.src.tags) == (tagged.fingerprint, ["<law>"])
    assert travelled.src.encode([UNSEEN]) == tagged.src.encode([UNSEEN])


def test_only_the_source_side_has_tags(grammar_lines: list[str]) -> None:
    src, tgt = trained(grammar_lines)[0], trained(grammar_lines[:600])[0]
    tagged = Tokenizers(src, tgt).with_tags(["<law>"])
    assert tagged.src.tags == ["<law>"] and tagged.tgt is tgt


def test_a_tag_that_is_a_piece_is_refused(grammar_lines: list[str]) -> None:
    tokenizer, _ = trained(grammar_lines, user_symbols=["<2de>"])
    with pytest.raises(InputError, match=r"the tag <2de> is a piece of the tokenizer already"):
        tokenizer.with_tags(["<2de>"])


def test_blank_lines_do_not_count(grammar_lines: list[str]) -> None:
    spaced = [line for text in grammar_lines for line in (text, "", " \t")]
    tokenizer, report = trained(spaced)
    assert "from 1,200 lines" in report
    assert tokenizer.fingerprint == trained(grammar_lines)[0].fingerprint


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_model_does_not_depend_on_the_number_of_cores(
    kind: str, grammar_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = set()
    for cores in (1, 3):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        fingerprints.add(trained(grammar_lines, type=kind)[0].fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize("lines", [[], ["", " \u3000"]])
def test_no_text_is_refused(lines: list[str]) -> None:
    with pytest.raises(InputError, match=r"training text is empty; check its files \(data\.train, or --input\)$"):
        trained(lines)


def test_text_that_cannot_be_read_keeps_its_refusal() -> None:
    def lines() -> Iterator[str]:
        yield "a dog"
        raise InputError("corpus.en, line 2: not UTF-8")

    with pytest.raises(InputError, match=r"^corpus\.en, line 2: not UTF-8$"):
        train_tokenizer(lines(), TokenizerConfig())


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_vocabulary_too_small_is_refused_with_its_key(kind: str, grammar_lines: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"^tokenizer\.vocab_size 250 does not fit the text \(.*\); raise it"
    ) as caught:
        trained(grammar_lines, type=kind, vocab_size=250)  # there are 256 bytes alone
    assert "\n" not in str(caught.value) and ".cc" not in str(caught.value)


def test_missing_threads_are_not_blamed_on_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(**_: object) -> None:
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr("sentencepiece.SentencePieceTrainer.train", none_left)
    with pytest.raises(InputError, match=r"^tokenizer: cannot be trained \(Resource temp.*\); end other processes"):
        train_tokenizer(["a dog"], TokenizerConfig())


def test_symbols_of_the_user_stay_whole(grammar_lines: list[str]) -> None:
    tokenizer, _ = trained(grammar_lines, user_symbols=["<2de>", "@@"])
    for text in ("<2de> The dog", "a@@b", "x<2de><2de>y"):
        [ids] = tokenizer.encode([text])
        for symbol in ("<2de>", "@@"):
            assert ids.count(tokenizer.table[symbol]) == text.count(symbol)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("symbols", [["<s>"], ["</s>"], ["<pad>"], ["<unk>"], ["<a>", "<a>"], [""]])
def test_impossible_symbols_are_refused(symbols: list[str], grammar_lines: list[str]) -> None:
    with pytest.raises(InputError, match=r"^tokenizer\.user_symbols '"):
        trained(grammar_lines, user_symbols=symbols)


@pytest.mark.parametrize("symbol", [" ", "a b", "a\n", "\r", "a\0b"])
def test_symbols_that_no_line_becomes_are_refused(symbol: str, grammar_lines: list[str]) -> None:
    with pytest.raises(InputError, match=r"^tokenizer\.user_symbols '@', .*would never match"):
        trained(grammar_lines, user_symbols=["@", symbol])


@pytest.mark.parametrize("symbol", ["ﬁ", "É", "\u3000", "\u200b", "▁a", "a,b", "▅", "<0x4>"])
def test_symbols_that_normalisation_would_change_match_all_the_same(symbol: str, grammar_lines: list[str]) -> None:
    tokenizer, _ = trained(grammar_lines, user_symbols=[symbol], normalization="nmt_nfkc_cf")
    assert symbol in tokenizer.encode_pieces(f"x{symbol}x")


def test_a_symbol_that_is_a_byte_is_refused_for_that(grammar_lines: list[str]) -> None:
    with pytest.raises(InputError, match=r"user_symbols '<0x41>': <0x41> stands for a byte; remove it, or set"):
        trained(grammar_lines, user_symbols=["<0x41>"])
    trained(grammar_lines, user_symbols=["<0x41>"], byte_fallback=False)


def test_lines_with_sentencepieces_own_mark_are_used() -> None:
    tokenizer, report = trained(["▅ word ▅"] * 50 + ["▅"])
    assert "from 50 lines" in report and "▁word" in tokenizer.table


def test_text_of_which_normalisation_leaves_nothing_is_refused_for_that() -> None:
    with pytest.raises(InputError, match=r"nothing but characters that tokenizer\.normalization nmt_nfkc leaves out"):
        trained(["\u200b\u200b"] * 50)


@pytest.mark.parametrize("special", ["<pad>", "<unk>", "<s>", "</s>"])
def test_a_model_that_makes_special_symbols_of_text_is_refused(
    special: str, grammar_lines: list[str], tmp_path: Path
) -> None:
    """The text "A </s> b" would end in its middle."""
    names = {"unk_piece": "<?>"} if special == "<unk>" else {}
    names |= {"bos_piece": "<bos>"} if special == "<s>" else {"eos_piece": "<eos>"} if special == "</s>" else {}
    model = bare_model(grammar_lines, user_defined_symbols=[special], **names)
    (tmp_path / "m.model").write_bytes(model)
    with pytest.raises(InputError, match=rf"m\.model: it makes {special} of text"):
        load_tokenizer(tmp_path / "m.model")
    assert Tokenizer(model).specials_of_text() == [special]


# ---------------------------------------------------------------- encoding and decoding


def test_unseen_characters_are_spelt_as_bytes(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers.src
    [ids] = tokenizer.encode([UNSEEN])
    assert 1 not in ids
    assert tokenizer.decode(ids) == UNSEEN.replace("𝔘", "U")  # NFKC
    emoji = [tokenizer.table[f"<0x{byte:02X}>"] for byte in "🙂".encode()]
    assert ids[1:5] == emoji  # after the space that starts every text


def test_without_bytes_they_are_unknown(grammar_lines: list[str]) -> None:
    tokenizer, _ = trained(grammar_lines, byte_fallback=False, vocab_size=150)
    assert not any(re.fullmatch(r"<0x..>", piece) for piece in tokenizer.table)
    [ids] = tokenizer.encode(["🙂"])
    assert ids[-1] == 1
    assert "🙂" not in tokenizer.decode(ids)


# Characters that NFKC leaves alone; runs of spaces and spaces at the ends are not text.
words = st.text(st.characters(codec="utf-8", categories=["Ll", "Lu", "Nd"], max_codepoint=0x24F), min_size=1)


@given(st.lists(words | st.sampled_from(["dog", "한국", "🙂", "<s>", "</s>", "<unk>", "<0x0A>"]), max_size=5))
def test_round_trip(tokenizers: Tokenizers, words: list[str]) -> None:
    text = " ".join(words)
    [ids] = tokenizers.src.encode([text])
    assert tokenizers.src.decode(ids) == unicodedata.normalize("NFKC", text)
    assert not {0, 1, 2, 3} & set(ids)  # what looks like a special in text is text


@pytest.mark.parametrize("text", ["", " ", "\t\u3000", "\u200b"])
def test_blank_text_has_no_pieces(text: str, tokenizers: Tokenizers) -> None:
    assert tokenizers.src.encode([text]) == [[]]
    assert tokenizers.src.decode([]) == ""


def test_threads_and_order_change_nothing(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    one = tokenizers.src.encode(grammar_lines)
    assert one == tokenizers.src.encode(grammar_lines, num_threads=3)
    assert one == [tokenizers.src.encode([line])[0] for line in grammar_lines]


@pytest.mark.parametrize("ends", ["0A", "0D", "0D 0A"])
def test_decoded_text_is_one_line_whatever_the_bytes(ends: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers.src
    pieces = ["▁a", *(f"<0x{byte}>" for byte in ends.split()), "b"]
    expected = "a" + " " * len(ends.split()) + "b"
    assert tokenizer.decode([tokenizer.table[piece] for piece in pieces]) == expected
    assert tokenizer.decode_pieces(pieces) == expected


def test_special_ids_have_no_text(tokenizers: Tokenizers) -> None:
    [ids] = tokenizers.src.encode(["The dog"])
    assert tokenizers.src.decode([2, 0, *ids, 3, 0]) == "The dog"


def test_pieces_and_ids_agree(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    tokenizer = tokenizers.src
    for line, ids in zip(grammar_lines[:50], tokenizer.encode(grammar_lines[:50]), strict=True):
        pieces = tokenizer.encode_pieces(line)
        assert [tokenizer.table[piece] for piece in pieces] == ids
        assert "".join(pieces).replace("▁", " ").strip() == line
        assert tokenizer.decode_pieces(pieces) == line


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("nmt_nfkc", "ÉTÉ fi 1 x"),
        ("nmt_nfkc_cf", "été fi 1 x"),
        ("nfkc", "ÉTÉ fi 1 x"),
        ("nfkc_cf", "été fi 1 x"),
        ("identity", "ÉTÉ ﬁ １ x"),
    ],
)
def test_normalization(normalization: str, expected: str, grammar_lines: list[str]) -> None:
    tokenizer, _ = trained(grammar_lines, normalization=normalization)
    assert tokenizer.decode(tokenizer.encode(["ÉTÉ ﬁ １ x"])[0]) == expected


# ---------------------------------------------------------------- our table


def test_default_ids_of_sentencepiece_become_ours(grammar_lines: list[str]) -> None:
    model = bare_model(grammar_lines)
    theirs = spm.SentencePieceProcessor(model_proto=model)
    assert [theirs.id_to_piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(model)
    # All ours first, then their pieces in their order: one more than they have, as <pad> is new.
    assert list(tokenizer.table) == ["<pad>", "<unk>", "<s>", "</s>", *(theirs.id_to_piece(i) for i in range(3, 200))]
    assert list(tokenizer.table.values()) == list(range(201))
    for line in (*grammar_lines[:50], "한 unknown"):
        [ids] = tokenizer.encode([line])
        assert ids == [i + 1 for i in theirs.encode(line)]  # <unk>: 0 -> 1, pieces: one place up
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(grammar_lines)] == grammar_lines
    assert tokenizer.decode([2, *tokenizer.encode(["The dog"])[0], 3]) == "The dog"


def test_other_orders_of_specials_become_ours(grammar_lines: list[str]) -> None:
    tokenizer = Tokenizer(bare_model(grammar_lines, pad_id=3, eos_id=0, bos_id=1, unk_id=2))
    assert list(tokenizer.table.items())[:4] == [("<pad>", 0), ("<unk>", 1), ("<s>", 2), ("</s>", 3)]
    assert tokenizer.vocab_size == 200
    assert tokenizer.encode(["한"])[0][-1] == 1
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(grammar_lines)] == grammar_lines


def test_given_table_rules_over_the_models_order(tokenizers: Tokenizers) -> None:
    pieces = list(tokenizers.src.table)
    table = {piece: i for i, piece in enumerate([*pieces[:4], *reversed(pieces[4:])])}
    turned = Tokenizer(tokenizers.src.model, table)
    [ids] = tokenizers.src.encode(["The dog 🙂"])
    assert turned.encode(["The dog 🙂"]) == [[403 - i for i in ids]]  # 4 <-> 399
    assert turned.decode([403 - i for i in ids]) == "The dog 🙂"


def test_table_may_have_more_and_fewer_pieces_than_the_model(tokenizers: Tokenizers) -> None:
    pieces = [piece for piece in tokenizers.src.table if piece != "▁the"]
    assert len(pieces) == 399, "the test needs another piece"
    tokenizer = Tokenizer(tokenizers.src.model, {piece: i for i, piece in enumerate([*pieces, "<2de>", "<2fr>"])})
    assert tokenizer.vocab_size == 401
    [ids] = tokenizer.encode(["the dog"])
    assert ids[0] == 1  # a piece that has no id is unknown
    assert tokenizer.decode([399, *ids[1:], 400]) == "dog"  # what the model does not know has no text


# ---------------------------------------------------------------- where pieces stand


def test_pieces_begin_where_they_stand_in_the_text(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    tokenizer = tokenizers.src
    for line in [*grammar_lines[:20], "naïve 😀 x"]:
        [ids] = tokenizer.encode([line])
        assert tokenizer.starts(line) == tokenizer.starts_decoded(ids)
        assert tokenizer.decode(ids) == line
        pieces, starts = tokenizer.pieces_of(ids), tokenizer.starts(line)
        for piece, start, end in zip(pieces, starts, [*starts[1:], len(line)], strict=True):
            if not piece.startswith("<0x"):
                assert line[start:end] == piece.replace("▁", " " if start else "")
            elif start < end:  # the last byte of a character
                assert line[start:end] in "ï😀"
    assert tokenizer.starts("") == tokenizer.starts_decoded([]) == []


def test_places_are_those_of_the_text_as_it_was_given(tokenizers: Tokenizers) -> None:
    """Normalisation puts in a space (´), takes some away and makes several characters of one (…, ½)."""
    text, tokenizer = "A man´s  dog… runs ½ mile.", tokenizers.src
    pieces, starts = tokenizer.encode_pieces(text), tokenizer.starts(text)
    assert len(pieces) == len(starts)
    assert starts == sorted(starts)
    where = {mark: text.index(mark) for mark in "´…½"}
    assert {where["´"], where["…"], where["½"]} <= {*starts}
    assert [starts[i] for i, piece in enumerate(pieces) if piece == "."] == [where["…"]] * 3 + [len(text) - 1]
    assert next(start for start in starts if start >= where["½"]) == where["½"]


def test_ids_without_text_are_where_the_next_one_is(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers.src.with_tags(["<2de>"])
    tag, [ids] = tokenizer.table["<2de>"], tokenizer.encode(["the dog"])
    starts = tokenizer.starts_decoded(ids)
    assert tokenizer.starts_decoded([tag, *ids[:1], tag, *ids[1:]]) == [0, *starts[:1], starts[1], *starts[1:]]


# ---------------------------------------------------------------- files and fingerprints


def changed_table(tokenizer: Tokenizer) -> Tokenizer:
    table = dict(tokenizer.table)
    a, b = itertools.islice(table, 300, 302)
    table[a], table[b] = table[b], table[a]
    return Tokenizer(tokenizer.model, table)


def test_fingerprint_follows_model_and_table(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    one = tokenizers.src
    assert one.fingerprint == Tokenizer(one.model, dict(one.table)).fingerprint
    assert one.fingerprint == Tokenizer(one.model, dict(reversed(one.table.items()))).fingerprint  # order is no content
    assert changed_table(one).fingerprint != one.fingerprint
    # The same pieces and ids, segmented by another rule.
    other, _ = trained(grammar_lines, normalization="nmt_nfkc_cf")
    assert Tokenizer(one.model).fingerprint != Tokenizer(other.model, one.table).fingerprint
    swapped = [Tokenizers(one, other), Tokenizers(other, one), Tokenizers(one, one), Tokenizers(other, other)]
    assert len({both.fingerprint for both in swapped}) == 4


def write(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)


def test_shared_tokenizer_in_a_model_directory(tokenizers: Tokenizers, tmp_path: Path) -> None:
    files = tokenizers.files()
    assert set(files) == {"tokenizer.model", "vocab.json"}
    assert json.loads(files["vocab.json"]) == tokenizers.src.table
    assert spm.SentencePieceProcessor(model_proto=files["tokenizer.model"]).get_piece_size() == 400
    write(tmp_path, files)
    loaded = Tokenizers.load(tmp_path, None)
    assert loaded.is_shared and loaded.src is loaded.tgt
    assert loaded.fingerprint == tokenizers.fingerprint
    assert loaded.src.encode([UNSEEN]) == tokenizers.src.encode([UNSEEN])


def test_separate_tokenizers_in_a_model_directory(grammar_lines: list[str], tmp_path: Path) -> None:
    src, _ = trained(grammar_lines[::2])
    tgt, _ = trained(grammar_lines[1::2], vocab_size=350)
    both = Tokenizers(changed_table(src), tgt)
    files = both.files()
    assert set(files) == {"source.model", "target.model", "vocab.json", "target_vocab.json"}
    write(tmp_path, files)
    loaded = Tokenizers.load(tmp_path, None)
    assert not loaded.is_shared
    assert (loaded.src.vocab_size, loaded.tgt.vocab_size) == (400, 350)
    assert (loaded.src.table, loaded.tgt.table) == (both.src.table, tgt.table)
    assert loaded.fingerprint == both.fingerprint == Tokenizers.from_files(files).fingerprint


def test_missing_file_is_named(tokenizers: Tokenizers, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.src.model)
    with pytest.raises(InputError, match=r"/vocab\.json: cannot be read \(No such file or directory\)"):
        Tokenizers.load(tmp_path, None)
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file.*name a SentencePiece model file"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize(
    "table",
    [
        "",
        "{",
        "[]",
        "{}",
        "3",
        '{"a": 7}',
        '{"a": 0, "b": 0}',
        '{"a": "0"}',
        '{"a": [0]}',
        '{"a": 0.0}',
        '{"a": false}',
    ],
)
def test_damaged_table_is_one_refusal(table: str, tokenizers: Tokenizers, tmp_path: Path) -> None:
    write(tmp_path, tokenizers.files() | {"vocab.json": table.encode()})
    with pytest.raises(InputError, match=rf"^{tmp_path}: its tokenizer is damaged \(.*\); copy the model again$"):
        Tokenizers.load(tmp_path, None)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_model_is_one_refusal(damage: str, tokenizers: Tokenizers, tmp_path: Path) -> None:
    whole = tokenizers.src.model
    model = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"The dog sleeps.\n"}[damage]
    write(tmp_path, tokenizers.files() | {"tokenizer.model": model})
    with pytest.raises(
        InputError, match=r"its tokenizer is damaged \(not a SentencePiece model( \(empty\))?\); copy the model again$"
    ):
        Tokenizers.load(tmp_path, None)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/tokenizer\.model: not a SentencePiece model( \(empty\))?; name one, as"
    ):
        load_tokenizer(tmp_path / "tokenizer.model")


def test_table_that_is_not_utf8_is_one_refusal(tokenizers: Tokenizers, tmp_path: Path) -> None:
    write(tmp_path, tokenizers.files() | {"vocab.json": b'{"\xff": 0}'})
    with pytest.raises(InputError, match=r"its tokenizer is damaged \("):
        Tokenizers.load(tmp_path, None)


def test_bare_model_file_gets_its_own_table(tokenizers: Tokenizers, tmp_path: Path) -> None:
    (tmp_path / "tok.model").write_bytes(tokenizers.src.model)
    assert load_tokenizer(tmp_path / "tok.model").fingerprint == tokenizers.src.fingerprint
    (tmp_path / "tok.model.gz").write_bytes(gzip.compress(tokenizers.src.model))
    assert load_tokenizer(tmp_path / "tok.model.gz").fingerprint == tokenizers.src.fingerprint
    (tmp_path / "cut.gz").write_bytes(gzip.compress(tokenizers.src.model)[:-100])
    with pytest.raises(InputError, match=r"cut\.gz: cannot be read \(.*\); name a SentencePiece model file"):
        load_tokenizer(tmp_path / "cut.gz")

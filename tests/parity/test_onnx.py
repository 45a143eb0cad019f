"""Exported models in the real onnxruntime: the same logits with and without the cache, and the same pieces.

Shapes: B sentences, M source positions, L target positions, V vocabulary.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from torch import nn

from transformer_mt.config.sections import ModelConfig, TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.exchange.onnx import export_onnx
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
hf = pytest.importorskip("tokenizers")

SHAPE: dict[str, Any] = dict(d_model=32, d_ff=48, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, dropout=0.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "pre-norm with biases": dict(norm="pre", attention_bias=True, activation="gelu"),
    "learned positions": dict(positions="learned", max_positions=60, activation="swish"),
    "sizes of heads": dict(d_k=4, d_v=12, norm="pre"),
    "two matrices": dict(tie_embeddings="target", attention_bias=True, output_bias=True),
    "three matrices": dict(tie_embeddings="none", norm="pre"),
}
SEPARATE = ("two matrices", "three matrices")
# One sentence in each of six scripts, whose words are mixed to make lines; signs that normalisation changes among them.
LINES = (
    "The old teacher opens the ﬁrst door — “slowly”, he says… Größe Überdruß naïve co\u0301rdoba ½ №5 ＡＢＣ "
    "Старый учитель медленно открывает первую дверь, говорит ёж и йод. "
    "पुराने शिक्षक ने धीरे-धीरे पहला दरवाज़ा खोला क़लम फ़िल्म। "
    "فتح المعلم القديم الباب الأول ببطء، ثم قال شيئًا. "
    "老师慢慢地打开了第一扇门，然后说：「你好」。 ｶﾞｲﾄﾞ ㍿ "
    "나이 든 선생님이 천천히 첫 번째 문을 열었다. "
    "ครูเก่าเปิดประตูแรกอย่างช้าๆ น้ำ 🙂 👩‍🏫"
)
WORDS = LINES.split()


def mixed_lines(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    gaps = (" ", " ", " ", " ", "  ", "\u3000", "\t", "")

    def line() -> str:
        words = draw.choices(WORDS, k=draw.randint(1, 12))
        cut = [word[: draw.randint(1, len(word))] for word in words]
        return "".join(itertools.chain.from_iterable(zip(cut, draw.choices(gaps, k=len(cut)), strict=True)))

    return [line() for _ in range(count)]


@pytest.fixture(scope="module")
def shared(grammar_lines: list[str]) -> Tokenizers:
    tokenizer, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=110, byte_fallback=False))
    return Tokenizers(tokenizer, tokenizer)


@pytest.fixture(scope="module")
def separate(grammar_lines: list[str]) -> Tokenizers:
    src, _ = train_tokenizer(grammar_lines[::2], TokenizerConfig(vocab_size=90, byte_fallback=False, type="unigram"))
    tgt, _ = train_tokenizer(grammar_lines[1::2], TokenizerConfig(vocab_size=380))
    return Tokenizers(src, tgt)


def build(tokenizers: Tokenizers, variant: str) -> Transformer:
    """A random model, whose biases and norms are not the zeros and ones of new ones."""
    torch.manual_seed(1)
    config = ModelConfig(**{**SHAPE, **VARIANTS[variant]})
    model = Transformer(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    return model


def padded(lists: list[list[int]]) -> Any:
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in lists], True, PAD_ID).numpy()


class Graphs:
    """The two graphs of a directory, run as transformers.js runs them."""

    def __init__(self, directory: Path, ending: str = "") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(directory / "onnx" / f"{name}{ending}.onnx"), options)
            for name in ("encoder_model", "decoder_model_merged")
        )

    def start(self, src: list[list[int]]) -> dict[str, Any]:
        """What the first step of the decoder is given."""
        ids = padded(src)
        mask = (ids != PAD_ID).astype(np.int64)
        (memory,) = self.encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        past = {
            one.name: np.ones((len(src), one.shape[1], 1, one.shape[3]), np.float32)  # not to be looked at
            for one in self.decoder.get_inputs()
            if one.name.startswith("past_key_values.")
        }
        return {"encoder_attention_mask": mask, "encoder_hidden_states": memory, **past}

    def step(self, given: dict[str, Any], ids_BL: Any, use_cache: bool) -> Any:
        """Return the logits (B, L, V) and put the cache behind them into what is given."""
        inputs = {**given, "input_ids": ids_BL, "use_cache_branch": np.array([use_cache])}
        outputs = self.decoder.run(None, inputs)
        names = [one.name for one in self.decoder.get_outputs()]
        given |= {n.replace("present", "past_key_values"): v for n, v in zip(names[1:], outputs[1:], strict=True)}
        return outputs[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_equal(variant: str, shared: Tokenizers, separate: Tokenizers, tmp_path: Path) -> None:
    tokenizers = separate if variant in SEPARATE else shared
    model = build(tokenizers, variant)
    export_onnx(model, tokenizers, tmp_path / "out")
    draw = random.Random(2)
    src, tgt = (
        [[*draw.choices(range(len(SPECIALS), one.vocab_size), k=k), EOS_ID] for k in lengths]
        for one, lengths in ((tokenizers.src, (1, 7, 40)), (tokenizers.tgt, (30, 1, 9)))
    )
    with torch.no_grad():
        expected = model.logits(collate(src, tgt)).split([len(ids) for ids in tgt])
    assert torch.cat(expected).std() > 0.3  # the comparison is not of zeros
    gap = 0 if tokenizers.is_shared else tokenizers.src.vocab_size - len(SPECIALS)
    tgt_in = [[BOS_ID, *(i + gap for i in ids[:-1])] for ids in tgt]
    for ending, tolerance in (("", 1e-4), ("_quantized", 0.5)):
        graphs = Graphs(tmp_path / "out", ending)
        given = graphs.start(src)
        ids_BL = padded(tgt_in)
        steps = [graphs.step(given, ids_BL[:, :3], False)]
        steps += [graphs.step(given, ids_BL[:, t : t + 1], True) for t in range(3, ids_BL.shape[1])]
        after_end_BLV = graphs.step(given, np.full((len(src), 1), EOS_ID), True)
        assert (after_end_BLV.argmax(-1) == EOS_ID).all()  # as transformers.js goes on with them
        logits_BLV = torch.from_numpy(np.concatenate(steps, axis=1))
        if gap:
            assert (logits_BLV[..., len(SPECIALS) : len(SPECIALS) + gap] < -1e30).all()
            logits_BLV = torch.cat((logits_BLV[..., : len(SPECIALS)], logits_BLV[..., len(SPECIALS) + gap :]), -1)
        for ours, theirs in zip(expected, logits_BLV, strict=True):
            torch.testing.assert_close(theirs[: len(ours)], ours, rtol=0, atol=tolerance)


KINDS: list[dict[str, Any]] = [
    dict(type="bpe"),
    dict(type="unigram"),
    dict(type="bpe", byte_fallback=False, normalization="nmt_nfkc_cf"),
    dict(type="unigram", byte_fallback=False, normalization="identity"),
    dict(type="bpe", user_symbols=("<ent>", "door", "①")),
    dict(type="unigram", user_symbols=("<ent>", "door", "①")),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_pieces_and_text_are_equal(kind: dict[str, Any]) -> None:
    from transformer_mt.exchange.tokenizer_json import tokenizer_json

    config = TokenizerConfig(vocab_size=600, character_coverage=0.98, **kind)
    tokenizer = train_tokenizer(mixed_lines(2000, seed=1), config)[0].with_tags(["<2fr>", "<news>"])
    theirs = hf.Tokenizer.from_str(json.dumps(tokenizer_json(Tokenizers(tokenizer, tokenizer))))
    draw = random.Random(4)
    lines = [*mixed_lines(10_000, seed=3), "İstanbul ve DİYARBAKIR"]
    lines += [unicodedata.normalize("NFD", line) for line in ("Tiếng Việt rất đẹp và được nói", "ǖ ṩ ῷ ΐ", "한국어")]
    for symbol in config.user_symbols:
        lines = [line if draw.random() < 0.8 else f"{line[:3]}{symbol}{line[3:]}" for line in lines]
    expected = tokenizer.encode(lines)
    found = [encoding.ids for encoding in theirs.encode_batch(lines)]
    different = [line for line, a, b in zip(lines, expected, found, strict=True) if [*a, EOS_ID] != b]
    assert different == []
    known = [ids for ids in expected if 1 not in ids]
    assert len(known) > 1000
    assert theirs.decode_batch(known) == [tokenizer.decode(ids) for ids in known]
    for tags in (["<2fr>"], ["<2fr>", "<news>"]):
        ids = [*(tokenizer.table[tag] for tag in tags), *expected[0], EOS_ID]
        assert theirs.encode(" ".join([*tags, lines[0].strip()])).ids == ids
    assert theirs.encode("").ids == theirs.encode(" ").ids == [EOS_ID]


def test_a_vocabulary_of_two(separate: Tokenizers) -> None:
    from transformer_mt.exchange.tokenizer_json import tokenizer_json

    theirs = hf.Tokenizer.from_str(json.dumps(tokenizer_json(separate)))
    ids = separate.tgt.encode(["Der Hund <0x41> läuft 🙂."])[0]
    gap = separate.src.vocab_size - len(SPECIALS)
    assert theirs.decode([i + gap for i in ids]) == separate.tgt.decode(ids)
    assert max(theirs.encode("Der Hund <0x41>  läuft 🙂.").ids) < separate.src.vocab_size


# What is not written


def test_what_gives_other_results_is_not_written(
    shared: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformer_mt.exchange.onnx_graphs.LAYER_NORM_EPS", 1.0)
    with pytest.raises(InputError, match=r"logits are off by .* standard deviations"):
        export_onnx(build(shared, "the paper's"), shared, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tokenizers"])
def test_the_extra_is_named(package: str, shared: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package} is not installed; pip install 'transformer-mt\[onnx\]'"):
        export_onnx(build(shared, "the paper's"), shared, tmp_path / "out")


def test_tokenizers_that_cannot_be_expressed(grammar_lines: list[str]) -> None:
    from transformer_mt.exchange.tokenizer_json import tokenizer_json

    def trained(**options: Any) -> Tokenizers:
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(grammar_lines), model_writer=out, vocab_size=100, hard_vocab_limit=False, **options
        )
        tokenizer = Tokenizer(out.getvalue())
        return Tokenizers(tokenizer, tokenizer)

    for options, message in (
        (dict(model_type="word"), "of words"),
        (dict(treat_whitespace_as_suffix=True), "spaces behind words"),
        (dict(user_defined_symbols=["▁big"]), "'▁big' has a space"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer_json(trained(**options))


def test_tags_are_never_written(shared: Tokenizers, tmp_path: Path) -> None:
    tagged = shared.with_tags(["<2fr>", "<news>"])
    export_onnx(build(tagged, "the paper's"), tagged, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["suppress_tokens"] == [0, 1, 2, *(tagged.tgt.table[tag] for tag in ("<2fr>", "<news>"))]

"""Argos packages: what they cannot express, what they replace, and that they are tried before they appear."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.decoding.ctranslate2_searcher import NUM_POSITIONS
from transformer_mt.errors import InputError, RunError
from transformer_mt.exchange import ctranslate2 as exchange
from transformer_mt.exchange.argos import export_argos
from transformer_mt.model.kinds import new_model
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers

pytest.importorskip("ctranslate2")
pytest.importorskip("onnx")

SHAPE: dict[str, Any] = dict(d_model=16, d_ff=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0)


def loaded(
    tokenizers: Tokenizers,
    src_lang: str = "en",
    train: Sequence[dict[str, str]] = ({},),
    tag: str | None = None,
    **shape: Any,
) -> LoadedModel:
    torch.manual_seed(1)
    data = {"src_lang": src_lang, "tgt_lang": "de", "train": train}
    search = {} if tag is None else {"tag": tag}
    config = DecodingConfig.model_validate(
        {"data": data, "model": shape if "kind" in shape else SHAPE | shape, "search": search}
    )
    model = new_model(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    return LoadedModel(Path("none"), model.eval(), config, tokenizers, 30)


def refused(model: LoadedModel, output: Path) -> str:
    before = {path: path.is_file() and path.read_bytes() for path in output.parent.iterdir()}
    with pytest.raises(InputError) as found:
        export_argos(model, output, "float32")
    assert before == {path: path.is_file() and path.read_bytes() for path in output.parent.iterdir()}
    return str(found.value)


def test_what_a_package_cannot_express(tokenizers: Tokenizers, tmp_path: Path) -> None:
    out = tmp_path / "a.argosmodel"
    twice = Tokenizers(tokenizers.src, Tokenizer(tokenizers.src.model))
    assert "two tokenizers" in refused(loaded(twice, tie_embeddings="target"), out)
    assert "the tag of one" in refused(loaded(tokenizers.with_tags(["<2de>", "<2fr>"])), out)
    for language in ("und", "../en"):
        assert f"the language {language!r} is no code" in refused(loaded(tokenizers, src_lang=language), out)
    assert "max_positions 900" in refused(loaded(tokenizers, positions="learned", max_positions=900), out)
    assert "only Transformers" in refused(loaded(tokenizers, kind="recurrent", d_model=16), out)
    several = loaded(tokenizers, train=[{"src_lang": "fr"}, {"src_lang": "it"}])
    assert "several source languages (fr, it)" in refused(several, out)
    tagged = tokenizers.with_tags(["<news>"])
    assert "search.tag news" in refused(loaded(tagged, tag="news"), out)
    export_argos(loaded(tagged), out, "float32")  # a text needs no domain


def test_the_languages_are_those_of_its_text(tokenizers: Tokenizers, tmp_path: Path) -> None:
    out = tmp_path / "a.argosmodel"
    export_argos(loaded(tokenizers, train=[{"src_lang": "it"}]), out, "float32")
    with zipfile.ZipFile(out) as archive:
        metadata = json.loads(archive.read("transformer_mt-it_de/metadata.json"))
    assert (metadata["from_code"], metadata["to_code"]) == ("it", "de")


def test_what_to_install_is_told(tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformer_mt.exchange.sentence_splitter", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    told = refused(loaded(tokenizers), tmp_path / "a.argosmodel")
    assert told == "export: onnx is not installed; pip install 'transformer-mt[export,onnx]'"


def test_only_packages_of_ours_are_replaced(tokenizers: Tokenizers, tmp_path: Path) -> None:
    model, out = loaded(tokenizers), tmp_path / "a.argosmodel"
    out.write_text("mine")
    assert "something else than an earlier export" in refused(model, out)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("translate-en_de/metadata.json", "{}")
    assert "something else than an earlier export" in refused(model, out)
    out.unlink()
    export_argos(model, out, "float32")
    export_argos(model, out, "float32")
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("transformer_mt-en_de/README.md", "mine")
    assert "something else than an earlier export" in refused(model, out)
    (tmp_path / "b.argosmodel").mkdir()
    assert "is a directory" in refused(model, tmp_path / "b.argosmodel")
    with pytest.raises(InputError, match="no directory"):
        export_argos(model, tmp_path / "none" / "a.argosmodel", "float32")


def test_other_scores_are_told_before_it_appears(
    tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = np.ones((NUM_POSITIONS, SHAPE["d_model"]), np.float32)
    monkeypatch.setattr(exchange, "_positions", lambda model: (table, table))
    model = loaded(tokenizers)
    with pytest.raises(RunError, match="other scores"):
        export_argos(model, tmp_path / "a.argosmodel", "float32")
    with pytest.raises(RunError, match="other scores"):
        exchange.export_ctranslate2(model, tmp_path / "a", "float32")
    assert list(tmp_path.iterdir()) == []


def test_what_ctranslate2_does_not_load_is_told(
    tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> NoReturn:
        raise RuntimeError("Unsupported model binary version")

    monkeypatch.setattr("ctranslate2.Translator", load)
    with pytest.raises(RunError, match=r"does not load what was written \(Unsupported model"):
        exchange.export_ctranslate2(loaded(tokenizers), tmp_path / "a", "float32")
    assert list(tmp_path.iterdir()) == []

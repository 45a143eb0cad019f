"""MarianMT directories in both directions, against Hugging Face's own classes: models, tokenizers and `generate`."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Trained, symbol_lines, text, tmt_here, translated
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from transformer_mt.checkpoints.model_directory import LoadedModel, load_model
from transformer_mt.config.loading import load_part
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.decoding.given_targets import log_probs
from transformer_mt.errors import InputError
from transformer_mt.exchange import card
from transformer_mt.exchange.from_marian import import_marian, local_directory, read_marian
from transformer_mt.exchange.marian import CLASSES, export_marian
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer, sinusoids
from transformer_mt.system.origin import code_version
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID

transformers = pytest.importorskip("transformers")

SHAPES: dict[str, dict[str, Any]] = {
    "as the paper": {},
    "biases": dict(attention_bias=True, output_bias=True),
    "gelu, own source table": dict(activation="gelu", tie_embeddings="target"),
    "pre-norm": dict(norm="pre"),
    "pre-norm, biases, swish": dict(norm="pre", attention_bias=True, output_bias=True, activation="swish"),
    "swish, three tables": dict(activation="swish", tie_embeddings="none", num_decoder_layers=1),
}
COMMON = ("--set", "search.length_penalty_form=power", "--set", "search.stop=beam_finished", "--length-penalty", 1)


def random_model(tokenizers: Tokenizers, **shape: Any) -> LoadedModel:
    """Weights that are no special case: no zero biases, and embeddings that tell pieces apart."""
    sizes = dict(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
    data = {"src_lang": "en", "tgt_lang": "de"}
    config = DecodingConfig.model_validate({"data": data, "model": {**sizes, **shape}})
    torch.manual_seed(5)
    model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return LoadedModel(Path("none"), model, config, tokenizers, 30)


def exported(loaded: LoadedModel, output: Path) -> tuple[Any, Any]:
    family = family_of(loaded)
    export_marian(loaded, "a card", output, family)
    return hugging_face(output, CLASSES[family])


def family_of(loaded: LoadedModel) -> str:
    return "pegasus" if loaded.config.model.norm == "pre" else "marian"


def hugging_face(directory: Path, name: str = "MarianMTModel") -> tuple[Any, Any]:
    model = getattr(transformers, name).from_pretrained(directory)
    return model.eval(), transformers.MarianTokenizer.from_pretrained(directory)


@torch.no_grad()
def compare_logits(ours: LoadedModel, theirs: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> None:
    """The texts go through each side's own tokenizer."""
    theirs_logits, our_logits = [], []
    # Their rows in our order.
    table, names = ours.tokenizers.tgt.table, tokenizer.get_vocab()
    table = {f">>{piece[2:-1]}<<" if piece.startswith("<2") else piece: i for piece, i in table.items()}
    known = {piece: i for piece, i in table.items() if piece in names and piece != "<s>"}
    for src, tgt in pairs:
        src_ids, tgt_ids = (
            [*side.encode([line])[0], EOS_ID] for side, line in zip(sides(ours), (src, tgt), strict=True)
        )
        our_logits.append(ours.model.logits(collate([src_ids], [tgt_ids]))[:, [*known.values()]])
        batch = tokenizer(src, text_target=tgt, return_tensors="pt")
        logits = theirs(**batch).logits[0]
        theirs_logits.append(logits[:, [names[piece] for piece in known]])
    found, expected = torch.cat(our_logits), torch.cat(theirs_logits)
    assert len(known) >= len(table) - 1 and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def sides(loaded: LoadedModel) -> tuple[Any, Any]:
    return loaded.tokenizers.src, loaded.tokenizers.tgt


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_exported_logits_are_equal(
    shape: dict[str, Any], tokenizers: Tokenizers, grammar_lines: list[str], tmp_path: Path
) -> None:
    loaded = random_model(tokenizers, **shape)
    model, tokenizer = exported(loaded, tmp_path / "out")
    compare_logits(loaded, model, tokenizer, list(zip(grammar_lines[0:20:2], grammar_lines[1:20:2], strict=True)))
    assert sorted(json.loads((tmp_path / "out" / "export.json").read_text())["files"]) == sorted(
        path.name for path in (tmp_path / "out").iterdir() if path.name != "export.json"
    )


TEXTS = [
    "a dog",
    "  two  spaces ",
    "</s> and <unk>, <pad> or <s>",
    "日本語 हिन्दी مرحبا",
    "😀 Ünïcode ﬁ",
    "a\tb\u2028c",
    "<0x41>",
    "▁x",
]


def test_text_becomes_the_same_pieces(tokenizers: Tokenizers, grammar_lines: list[str], tmp_path: Path) -> None:
    _, tokenizer = exported(random_model(tokenizers), tmp_path / "out")
    for line in [*TEXTS, *grammar_lines[:200]]:
        ids = tokenizers.src.encode([line])[0]
        assert tokenizer(line)["input_ids"] == [*ids, EOS_ID], line
        decoded = tokenizer.decode([BOS_ID, *ids, EOS_ID], skip_special_tokens=True)
        assert decoded == tokenizers.src.decode(ids).strip(), line


def test_separate_vocabularies_and_codes_of_languages(
    tokenizers: Tokenizers, grammar_lines: list[str], tmp_path: Path
) -> None:
    other, _ = train_tokenizer(grammar_lines[1::2], TokenizerConfig(vocab_size=350))
    both = Tokenizers(tokenizers.src, other).with_tags(["<2fr>", "<2de>"])
    loaded = random_model(both, tie_embeddings="target")
    model, tokenizer = exported(loaded, tmp_path / "out")
    src, tgt = grammar_lines[0], grammar_lines[1]
    ids = [*both.tag_ids("fr", None), *both.src.encode([src])[0], EOS_ID]
    assert tokenizer(f">>fr<< {src}")["input_ids"] == ids
    assert tokenizer(text_target=tgt)["input_ids"] == [*both.tgt.encode([tgt])[0], EOS_ID]
    with torch.no_grad():
        expected = model(**tokenizer(f">>fr<< {src}", text_target=tgt, return_tensors="pt")).logits[0]
        found = loaded.model.logits(collate([ids], [[*both.tgt.encode([tgt])[0], EOS_ID]]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def generated(directory: Path, lines: Sequence[str]) -> list[str]:
    model, tokenizer = hugging_face(directory)
    with torch.inference_mode():
        batch = tokenizer(list(lines), return_tensors="pt", padding=True)
        # Ours has no more than 50 tokens more than its source.
        ids = model.generate(**batch, num_beams=4, length_penalty=1.0, early_stopping=True, max_length=72)
    found: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def test_generate_gives_our_translations(trained: Trained, tmp_path: Path) -> None:
    sources = symbol_lines(40, seed=99, shortest=1, longest=8)  # longer ones would be split
    done = tmt_here("export", trained.run, "--format", "marian", "--output", tmp_path / "out").ok()
    assert done.stderr.endswith(f"to {tmp_path / 'out'} (marian, float32)\n")
    expected = translated(trained, sources, "--beam-size", 4, *COMMON)
    assert len(set(expected)) > 30
    assert generated(tmp_path / "out", sources) == expected
    text = (tmp_path / "out" / "README.md").read_text()
    assert "nrefs:1|case:mixed" in text and "150 of 150 updates" in text and "max_steps: 150" in text
    assert (
        f"by transformer_mt {code_version()}, on:" in text and f"exported by transformer_mt {code_version()}." in text
    )
    assert "does not say all licences" in text


def test_a_card_says_the_licences_of_its_text() -> None:
    training = {"step": 1, "max_steps": 2, "max_tokens": 3, "seed": 4, "sources": ["a.tsv"], "licenses": ["CC BY 4.0"]}
    text = "\n".join(card._training({"training": training}))
    assert text.endswith("- a.tsv (CC BY 4.0)")


# Directories of the family, in its order: </s> and <unk> first, <pad> last, which the decoder starts with.


@pytest.fixture(
    scope="module",
    params=["scaled", *(pytest.param(one, marks=pytest.mark.slow) for one in ("not scaled", "not tied"))],
)
def opus(request: pytest.FixtureRequest, grammar_lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("opus")
    pieces: dict[str, None] = {}
    for number, name in enumerate(("source.spm", "target.spm")):
        settings = TokenizerConfig(vocab_size=90 + number, type="unigram", byte_fallback=False)
        tokenizer, _ = train_tokenizer(grammar_lines[number::2], settings)
        (directory / name).write_bytes(tokenizer.model)
        pieces |= dict.fromkeys(list(tokenizer.table)[4:])
    table = {"</s>": 0, "<unk>": 1}
    for piece in [*sorted(pieces, key=hash_free), ">>fra<<", ">>deu<<", "<pad>"]:
        table[piece] = len(table)
    (directory / "vocab.json").write_text(json.dumps(table))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"})
    )
    pad = table["<pad>"]
    torch.manual_seed(3)
    config = transformers.MarianConfig(
        **dict(vocab_size=len(table), d_model=32, encoder_layers=2, decoder_layers=1, activation_function="swish"),
        **dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64),
        **dict(max_position_embeddings=128, pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0),
        **dict(forced_eos_token_id=0, scale_embedding=request.param != "not scaled", init_std=0.1, dropout=0.0),
        tie_word_embeddings=request.param != "not tied",
        share_encoder_decoder_embeddings=request.param != "not tied",
    )
    model = transformers.MarianMTModel(config)
    model.final_logits_bias.normal_(std=0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.bad_words_ids = [[pad], [1]]
    train_a_little(model, transformers.MarianTokenizer.from_pretrained(directory), grammar_lines)
    model.save_pretrained(directory)
    return directory


def train_a_little(model: Any, tokenizer: Any, lines: Sequence[str]) -> None:
    """Until translations end, and differ with their sources."""
    batches = []
    for first in range(0, 960, 32):
        part = lines[first : first + 32]
        sources = [f">>fra<< {line}" for line in part[0::2]]
        batch = tokenizer(sources, text_target=part[1::2], return_tensors="pt", padding=True)
        batch["labels"][batch["labels"] == tokenizer.pad_token_id] = -100
        batches.append(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    model.train()
    for step in range(120):
        model(**batches[step % 30]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def hash_free(piece: str) -> str:
    """An order that is neither SentencePiece model's."""
    return piece[::-1]


def test_imported_logits_and_translations_are_equal(opus: Path, grammar_lines: list[str], tmp_path: Path) -> None:
    tmt_here("import", opus, "--output", tmp_path / "model").ok()
    loaded = load_model(tmp_path / "model")
    compare_logits(loaded, *hugging_face(opus), list(zip(grammar_lines[0:20:2], grammar_lines[1:20:2], strict=True)))

    lines = grammar_lines[0:40:2]
    expected = generated(opus, [f">>fra<< {line}" for line in lines])
    options = ("--beam-size", 4, *COMMON, "--tgt-lang", "fra")
    found = tmt_here("translate", tmp_path / "model", *options, stdin=text(lines)).ok().lines
    assert found == expected and len(set(found)) > 10
    assert json.loads(tmt_here("info", tmp_path / "model", "--json").ok().stdout)["kind"] == "imported model"


def test_import_then_export_gives_equal_weights(opus: Path, tmp_path: Path) -> None:
    import_marian(opus, tmp_path / "model")
    export_marian(load_model(tmp_path / "model"), "a card", tmp_path / "out")
    before, after = load_file(opus / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    compare = set(before) & set(after) if json.loads((opus / "config.json").read_text())["scale_embedding"] else set()
    tables = [json.loads((place / "vocab.json").read_text()) for place in (opus, tmp_path / "out")]
    rows = [[table[piece] for piece in tables[0]] for table in tables]
    for name in compare:
        if len(before[name]) in (1, len(tables[0])):  # of a vocabulary
            old, new = (x[name].flatten(0, -2) if name != "final_logits_bias" else x[name].T for x in (before, after))
            assert torch.equal(old[rows[0]], new[rows[1]]), name
        else:
            assert torch.equal(before[name], after[name]), name
    assert len(compare) >= 60 or not compare
    model, tokenizer = hugging_face(tmp_path / "out")
    compare_logits(load_model(tmp_path / "model"), model, tokenizer, [("the dog sees a cat", "der Hund")])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_our_export_comes_back_bit_for_bit(norm: str, tokenizers: Tokenizers, tmp_path: Path) -> None:
    loaded = random_model(tokenizers, attention_bias=True, output_bias=True, norm=norm)
    export_marian(loaded, "a card", tmp_path / "out", family_of(loaded))
    found = read_marian(tmp_path / "out")
    assert found.tokenizers.fingerprint == tokenizers.fingerprint
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), parameter), name


def test_a_bias_of_the_output_is_in_loss_and_scores(tokenizers: Tokenizers) -> None:
    loaded = random_model(tokenizers, output_bias=True)
    src, tgt = [[9, 8, EOS_ID], [7, EOS_ID]], [[20, 21, 22, EOS_ID], [30, EOS_ID]]
    batch = collate(src, tgt)
    logits, labels = loaded.model.logits(batch), torch.tensor([*tgt[0], *tgt[1]])
    loss, nll = loaded.model(batch, label_smoothing=0.1)
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    smoothed = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss, smoothed)
    (found,) = torch.autograd.grad(loss, loaded.model.generator.bias)
    (expected,) = torch.autograd.grad(smoothed, loaded.model.generator.bias)
    torch.testing.assert_close(found, expected)
    scores = [sum(of_pair or []) for of_pair in log_probs(loaded.model, src, tgt, micro_tokens=100)]
    assert sum(scores) == pytest.approx(-nll.item(), rel=1e-5)


def test_a_table_of_positions_that_are_no_sinusoids_is_kept(opus: Path, tmp_path: Path) -> None:
    tensors = load_file(opus / "model.safetensors")
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"] = sinusoids(128, 32).float() * 2
    for path in opus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")  # as older ones of the family have it
    found = read_marian(tmp_path)
    assert found.config.model.positions == "learned"
    torch.testing.assert_close(found.model.positions("src", 128), tensors["model.encoder.embed_positions.weight"])


def test_a_trained_model_goes_on_training(opus: Path, tmp_path: Path) -> None:
    import_marian(opus, tmp_path / "model")
    before = load_model(tmp_path / "model").config.model.model_dump(exclude_defaults=True)
    (tmp_path / "t").write_text(text(["a dog sees the cat"[: 5 + i % 10] for i in range(300)]))
    sets = [f"model.{key}={value}" for key, value in before.items()]
    (tmp_path / "c.yaml").write_text(
        "data:\n  src_lang: eng\n  tgt_lang: deu\n"
        f"  train: [{{src: {tmp_path}/t, tgt: {tmp_path}/t}}]\n  cache_dir: {tmp_path}/cache\n"
        f"train: {{init_from: {tmp_path}/model, max_steps: 2, checkpoint_steps: 2}}\nbatch: {{max_tokens: 200}}\n"
    )
    options = [one for key in sets for one in ("--set", key)]
    tmt_here("train", tmp_path / "c.yaml", "--output", tmp_path / "run", *options).ok()
    after, initial = load_model(tmp_path / "run").model, load_model(tmp_path / "model").model
    assert isinstance(after, Transformer) and isinstance(initial, Transformer)
    moved = {name: (after.get_parameter(name) - p).abs().max().item() for name, p in initial.named_parameters()}
    assert all(0 < distance < 0.1 for name, distance in moved.items() if not name.endswith("k_proj.bias"))


def test_an_adapted_model_with_a_larger_vocabulary_goes_back(opus: Path, tmp_path: Path) -> None:
    """Two models of pieces that share a table, a bias of the output, a language and words that are new."""
    import_marian(opus, tmp_path / "model")
    before = load_model(tmp_path / "model")
    lines = [f"{'il cane vede un gatto'[: 8 + i % 13]} xylofon" for i in range(300)]
    (tmp_path / "t").write_text(text(lines))
    keys = before.config.model.model_dump(exclude_defaults=True)
    config: dict[str, Any] = {
        "data": {"src_lang": "eng", "tgt_lang": "ita", "cache_dir": str(tmp_path / "cache")},
        "tokenizer": {"add_pieces": 8},
        "model": keys,
        "train": {"init_from": str(tmp_path / "model"), "max_steps": 2, "checkpoint_steps": 2},
        "batch": {"max_tokens": 200},
    }
    config["data"]["train"] = [{"src": str(tmp_path / "t"), "tgt": str(tmp_path / "t")}]
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    tmt_here("train", tmp_path / "c.yaml", "--output", tmp_path / "run").ok()
    after = load_model(tmp_path / "run")
    assert after.tokenizers.src.tags == ["<2deu>", "<2fra>", "<2ita>"]
    for side in ("src", "tgt"):
        old, new = (getattr(loaded.tokenizers, side) for loaded in (before, after))
        assert len(new.encode([lines[-1]])[0]) < len(old.encode([lines[-1]])[0])
    model, tokenizer = exported(after, tmp_path / "out")
    compare_logits(after, model, tokenizer, [(line, line) for line in lines[:10]])


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("marian", dict(norm="pre"), "model.norm pre: Marian's layers are post-norm; export with --format pegasus"),
        ("pegasus", dict(norm="post"), "model.norm post: Pegasus' layers are pre-norm; export with --format marian"),
        ("pegasus", dict(norm="pre", tie_embeddings="target"), "model.tie_embeddings target: Pegasus has one table"),
        ("marian", dict(positions="learned"), "model.positions learned"),
        ("marian", dict(d_k=4, d_v=4), "model.d_k 4 and d_v 4: heads of marian have d_model / num_heads (8)"),
    ],
)
def test_what_the_family_cannot_have_is_refused(
    family: str, shape: dict[str, Any], message: str, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refusal:
        export_marian(random_model(tokenizers, **shape), "a card", tmp_path / "out", family)
    assert message in str(refusal.value) and not (tmp_path / "out").exists()


def test_a_domain_behind_a_language_is_refused(tokenizers: Tokenizers, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="<news> stand behind a language's"):
        export_marian(random_model(tokenizers.with_tags(["<2fr>", "<news>"])), "a card", tmp_path / "out")
    _, tokenizer = exported(random_model(tokenizers.with_tags(["<news>"])), tmp_path / "out")
    ids = [tokenizers.src.vocab_size, *tokenizers.src.encode(["a dog"])[0], EOS_ID]
    assert tokenizer(">>news<< a dog")["input_ids"] == ids
    tmt_here("import", tmp_path / "out", "--output", tmp_path / "back").ok()
    found = load_model(tmp_path / "back")
    assert found.tokenizers.src.tags == ["<news>"]  # and no language: a source may have none
    assert found.config.data.directions() == [("en", "de")]


@pytest.mark.parametrize(
    ("src_langs", "expected"), [([None], "en"), (["fr"], "fr"), (["fr", "en"], "en"), (["fr", "it"], "und")]
)
def test_the_language_of_sources(
    src_langs: list[str | None], expected: str, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    loaded = random_model(tokenizers)
    train = [{} if code is None else {"src_lang": code} for code in src_langs]
    data = type(loaded.config.data).model_validate({"src_lang": "en", "tgt_lang": "de", "train": train})
    loaded.config = loaded.config.model_copy(update={"data": data})
    _, tokenizer = exported(loaded, tmp_path / "out")
    assert (tokenizer.source_lang, tokenizer.target_lang) == (expected, "de")


def bias_of_seven(directory: Path) -> bytes:
    tensors = load_file(directory / "model.safetensors")
    return safetensors_bytes({**tensors, "final_logits_bias": torch.zeros(1, 7)})


def test_damaged_directories_are_refused(opus: Path, tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None) -> str:
        place = tmp_path / "copy"
        place.mkdir(exist_ok=True)
        for path in opus.iterdir():
            (place / path.name).write_bytes(path.read_bytes())
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        done = tmt_here("import", place, "--output", tmp_path / "out")
        assert done.status == 2 and not (tmp_path / "out").exists()
        return done.refusal

    config = json.loads((opus / "config.json").read_text())

    def with_(**changes: Any) -> bytes:
        return json.dumps({**config, **changes}).encode()

    assert "no MarianMT directory (no source.spm)" in refused("source.spm", None)
    assert "no model.safetensors or pytorch_model.bin" in refused("model.safetensors", None)
    assert "damaged, or no file of weights" in refused("model.safetensors", b"nothing")
    assert "no JSON object" in refused("vocab.json", b"[")
    assert "not a table of pieces" in refused("vocab.json", b'{"<unk>": 0, "a": 0}')
    assert "not a SentencePiece model" in refused("target.spm", b"nothing")
    assert "model_type is bart; only marian" in refused("config.json", with_(model_type="bart"))
    assert "encoder_ffn_dim 64 is not decoder_ffn_dim 32" in refused("config.json", with_(decoder_ffn_dim=32))
    assert "vocab.json: <pad>, <unk>, </s> and the decoder's start are" in refused("vocab.json", b'{"a": 0}')
    assert "source.spm: cannot be read (has more than 67,108,864 bytes)" in refused("source.spm", bytes(2**26 + 1))
    assert "activation_function ['relu']: ours are" in refused("config.json", with_(activation_function=["relu"]))
    scalar = {**load_file(opus / "model.safetensors"), "model.encoder.layers.0.fc1.weight": torch.tensor(1.0)}
    assert "matrices of other shapes" in refused("model.safetensors", safetensors_bytes(scalar))
    assert "activation_function gelu_new: ours are" in refused("config.json", with_(activation_function="gelu_new"))
    assert "lack" in refused("config.json", with_(encoder_layers=3))
    assert "d_model is x, not one from 1 to 65,536" in refused("config.json", with_(d_model="x"))
    assert "max_position_embeddings is 1000000" in refused("config.json", with_(max_position_embeddings=10**6))
    assert "says d_model 60000, the weights have" in refused("config.json", with_(d_model=60000))
    huge = with_(encoder_ffn_dim=10**10, decoder_ffn_dim=10**10)
    assert "says encoder_ffn_dim 10000000000, the weights have" in refused("config.json", huge)
    assert "final_logits_bias is [1, 7]" in refused("model.safetensors", bias_of_seven(opus))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\x80\x02h\x05.", ""), (pickle.dumps(print, 2), "damaged, or has more in it than weights; download it again")],
    ids=["bytes", "a program"],
)
def test_damaged_weights_of_pytorch_are_refused(content: bytes, reason: str, opus: Path, tmp_path: Path) -> None:
    place = shutil.copytree(opus, tmp_path / "copy")
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(content)
    refusal = tmt_here("import", place, "--output", tmp_path / "out").refusal
    assert f"{place / 'pytorch_model.bin'}: damaged, or " in refusal and reason in refusal


def test_a_length_penalty_of_zero_stays(opus: Path, tmp_path: Path) -> None:
    """It is none, where a missing one is transformers' 1.0."""
    path = shutil.copytree(opus, tmp_path / "opus") / "generation_config.json"
    for penalty in (0.0, None):
        path.write_text(json.dumps({**json.loads(path.read_text()), "length_penalty": penalty}))
        tmt_here("import", tmp_path / "opus", "--output", tmp_path / "model").ok()
        config = load_part(tmp_path / "model" / "config.yaml", DecodingConfig)
        assert config.search.length_penalty == (1.0 if penalty is None else 0.0)


def test_a_changed_byte_of_an_export_is_told(tokenizers: Tokenizers, tmp_path: Path) -> None:
    exported(random_model(tokenizers), tmp_path / "out")
    weights = bytearray((tmp_path / "out" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "out" / "model.safetensors").write_bytes(weights)
    done = tmt_here("import", tmp_path / "out", "--output", tmp_path / "model")
    assert done.status == 2 and "model.safetensors: damaged (its SHA-256 is not" in done.refusal
    assert not (tmp_path / "model").exists()
    (tmp_path / "out" / "export.json").unlink()  # as the line says, for those who have changed it
    tmt_here("import", tmp_path / "out", "--output", tmp_path / "model").ok()


def test_a_download_is_made_of_links(opus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    cache = tmp_path / "cache"
    cache.mkdir()
    for path in opus.iterdir():
        (cache / path.name).symlink_to(path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cache))
    tmt_here("import", "someone/some-model", "--output", tmp_path / "a").ok()
    tmt_here("import", opus, "--output", tmp_path / "b").ok()
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_name_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"not to be had from the hub .OSError: no network at all"):
        local_directory("someone/some-model")
    assert local_directory("some/where/else") == Path("some/where/else")

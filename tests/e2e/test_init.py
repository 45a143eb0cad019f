"""`tmt init`: two files in, a configuration out that trains; a model adapted to other text; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Done, Trained, symbol_lines, tmt, tmt_here, write

from transformer_mt.checkpoints.model_directory import load_tensors
from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.config.loading import load_config
from transformer_mt.recipes import adapting, sizes, start, trial
from transformer_mt.recipes.adapting import Initial, load_initial
from transformer_mt.toy_corpus import grammar

SMALL = [
    *("--set", "train.max_steps=1", "--set", "train.eval_steps=1", "--set", "train.checkpoint_steps=1"),
    *("--set", "model.num_encoder_layers=1", "--set", "model.num_decoder_layers=1", "--set", "model.d_model=32"),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 0.01)


@pytest.fixture
def text(tmp_path: Path) -> list[tuple[str, str]]:
    pairs = [*{src: (src, tgt) for src, tgt in grammar.generate("train", 400)}.values()][:300]
    for i, lang in enumerate(("en", "de")):
        write(tmp_path / f"train.{lang}", [pair[i] for pair in pairs])
    return pairs


def init(
    directory: Path, *options: object, src: str = "train.en", tgt: str = "train.de", output: str = "my.yaml"
) -> Done:
    files = ["--src", directory / src, "--tgt", directory / tgt]
    return tmt_here("init", *files, "--output", "-" if output == "-" else directory / output, *options)


def test_two_files_become_a_model(text: list[tuple[str, str]], tmp_path: Path) -> None:
    done = init(tmp_path).ok()
    path = tmp_path / "my.yaml"
    assert done.stdout == b"" and f"wrote {path}; next: tmt train {path}" in done.stderr
    assert "en to de (by the names of the files)" in done.stderr
    spaced = init(tmp_path, output="my own.yaml").ok()
    assert f"next: tmt train '{tmp_path}/my own.yaml'" in spaced.stderr
    assert "| tmt translate 'runs/my own'\n" in (tmp_path / "my own.yaml").read_text()
    config = load_config(path)
    assert (config.data.src_lang, config.data.tgt_lang) == ("en", "de")
    assert config.data.train[0].src == str(tmp_path / "train.en") and config.data.clean.drop_held_out
    held_out = [
        tuple(pair)
        for source in (*config.data.valid, *config.data.test)
        for pair in zip(*(Path(str(file)).read_text().splitlines() for file in (source.src, source.tgt)), strict=True)
    ]
    assert len(held_out) == len({*held_out}) == 30 and {*held_out} <= {*text}

    # What is held out still stands in the training text, but training leaves it out.
    assert tmt_here("data", "check", path).ok().lines == ["nothing found"]
    assert tmt_here("data", "check", path, "--set", "data.clean.drop_held_out=false").status == 1
    options = ["--output", tmp_path / "run", "--set", f"data.cache_dir={tmp_path / 'cache'}", *SMALL]
    shown = tmt("train", path, "--dry-run", *options).ok().stderr
    assert "corpus: 300 pairs: 270 kept, 30 held_out\n" in shown
    tmt("train", path, *options).ok()
    assert len(tmt("translate", tmp_path / "run", stdin="The dog sees a house.\n\n").ok().lines) == 2


def test_a_model_is_adapted(trained: Trained, tmp_path: Path) -> None:
    """With its shape, its vocabulary and its languages, at a lower rate and for fewer steps."""
    lines = symbol_lines(200, seed=5)
    for side in ("hsb", "dsb"):
        write(tmp_path / f"a.{side}", lines)
    write(tmp_path / "symbols", lines)
    before = load_config(trained.config)
    done = init(tmp_path, "--from", trained.run, src="a.hsb", tgt="a.dsb")
    assert done.status == 2 and "translates src to tgt, the text is hsb to dsb" in done.refusal
    init(tmp_path, "--from", trained.run, src="a.hsb", tgt="symbols").ok()  # nothing tells the languages but the model
    config = load_config(tmp_path / "my.yaml")
    assert (config.data.src_lang, config.data.tgt_lang, config.train.init_from) == ("src", "tgt", str(trained.run))
    assert before.optim.lr is not None and config.optim.lr == pytest.approx(before.optim.lr / 4, rel=0.05)
    assert config.model == before.model
    fresh, replayed = config.data.train  # half of what is seen is what it was trained on
    assert fresh.src == str(tmp_path / "a.hsb") and replayed.src == before.data.train[0].src
    assert replayed.weight == pytest.approx(200 * 0.8 / 2000, rel=0.3)
    assert [source.name for source in config.data.test] == [None]  # the model's own were never in its text
    given = ["--replay-src", tmp_path / "a.dsb", "--replay-tgt", tmp_path / "symbols"]
    init(tmp_path, "--from", trained.run, *given, src="a.hsb", tgt="symbols", output="given.yaml").ok()
    assert load_config(tmp_path / "given.yaml").data.train[1].src == str(tmp_path / "a.dsb")
    options = ["--output", tmp_path / "run", "--set", f"data.cache_dir={tmp_path / 'cache'}", *SMALL[:6]]
    options += ["--set", "train.freeze=[embeddings, encoder]"]
    tmt("train", tmp_path / "my.yaml", *options).ok()
    told = tmt("train", tmp_path / "my.yaml", *options, "--resume", "--set", "train.max_steps=2").ok().stderr
    assert "of them frozen)" in told
    old, new = (load_tensors(resolve_model(path) / "model.safetensors") for path in (trained.run, tmp_path / "run"))
    changed = {name.split(".")[0] for name, weight in new.items() if not weight.equal(old[name])}
    assert changed == {"decoder"}


def test_what_the_first_model_has_never_seen_stays_out_and_is_scored(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_that_held_out(path: Path) -> Initial:
        initial = load_initial(path)
        data = initial.config.data
        data = data.model_copy(update={"clean": data.clean.model_copy(update={"drop_held_out": True})})
        return initial._replace(config=initial.config.model_copy(update={"data": data}))

    monkeypatch.setattr(adapting, "load_initial", one_that_held_out)
    for name in ("a.hsb", "symbols"):
        write(tmp_path / name, symbol_lines(200, seed=5))
    init(tmp_path, "--from", trained.run, src="a.hsb", tgt="symbols").ok()
    data, before = load_config(tmp_path / "my.yaml").data, load_config(trained.config).data
    assert [source.name for source in data.test] == [None, "old_valid"]
    assert data.test[1].src == before.valid[0].src and data.clean.drop_held_out


def test_the_largest_shape_that_takes_no_more_than_half_a_day(
    text: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "shapes_for", lambda corpus: [sizes.BASE, sizes.SMALL, sizes.TINY])
    widths = {512: None, 256: 1000.0, 128: 100.0}  # seconds an update; None: does not fit into memory
    monkeypatch.setattr(start, "seconds_per_update", lambda config, *_: widths[config.model.d_model])
    done = init(tmp_path).ok()
    assert load_config(tmp_path / "my.yaml").model.d_model == 128  # still too slow, but there is no smaller one
    written = " ".join((tmp_path / "my.yaml").read_text().split())
    assert "6 + 6 layers, 256 wide would take at least" in written
    assert "there is time for, such a model learns too little of this text" in done.stderr
    widths[256] = 0.1
    init(tmp_path, output="other.yaml").ok()
    assert load_config(tmp_path / "other.yaml").model.d_model == 256
    assert "would take" not in (tmp_path / "other.yaml").read_text()
    widths[256] = 1.0
    init(tmp_path, "--minutes", 10, output="short.yaml").ok()
    config = load_config(tmp_path / "short.yaml")
    assert config.model.d_model == 256
    assert config.train.max_steps == pytest.approx(600, rel=0.15) and config.optim.schedule == "linear"
    assert "as there is time for" in " ".join((tmp_path / "short.yaml").read_text().split())
    for minutes in ("0", "-3", "nan", "inf"):
        refused = init(tmp_path, "--minutes", minutes, output="no.yaml")
        assert refused.status == 2 and f"--minutes {float(minutes)}: should be a positive number" in refused.refusal
    widths.update(dict.fromkeys(widths))
    done = init(tmp_path, output="third.yaml")
    assert done.status == 1 and "not even a small batch fits into memory" in done.refusal
    assert not [*tmp_path.glob("third*")]


def test_text_without_sentences_is_refused(tmp_path: Path) -> None:
    for lang in ("en", "de"):
        write(tmp_path / f"train.{lang}", [f"{i} " + "word " * 700 for i in range(100)])
    done = init(tmp_path)
    assert done.status == 2 and "characters on a side" in done.refusal
    assert "one sentence a line is expected" in done.refusal and not [*tmp_path.glob("my.*")]


def test_copies_numbers_and_what_all_begin_with_are_warned_of_only(text: list[tuple[str, str]], tmp_path: Path) -> None:
    """Models are tried on such."""
    numbers = [f"{i} {i + 1}" for i in range(300)]
    copies, turned = [src for src, _ in text], [number[::-1] for number in numbers]
    src_verses, tgt_verses = (
        [f"{i // 30}|{i % 30}|{side}" for i, side in enumerate(sides)] for sides in zip(*text, strict=True)
    )
    for name, src, tgt, words in (
        ("copies", copies, copies, "100.0 % of the pairs are the same on both sides"),
        ("numbers", numbers, turned, "100.0 % of the target sides are numbers"),
        ("verses", src_verses, tgt_verses, "100.0 % of the source sides begin with a number or a key"),
    ):
        write(tmp_path / f"{name}.en", src), write(tmp_path / f"{name}.de", tgt)
        done = init(tmp_path, src=f"{name}.en", tgt=f"{name}.de", output=f"{name}.yaml")
        assert done.status == 0 or "no validation text can be held out" in done.refusal  # numbers are alike
        assert f"warning: {tmp_path / name}.en + {tmp_path / name}.de: {words}" in done.stderr


def test_a_word_for_missing_translations_is_warned_of(text: list[tuple[str, str]], tmp_path: Path) -> None:
    write(tmp_path / "none.de", ["__NULL__"] * len(text))
    done = init(tmp_path, tgt="none.de")
    assert done.status == 2 and "no validation text can be held out" in done.refusal
    assert "warning: '__NULL__' stands beside 300 different texts, in 100.0 % of the target sides" in done.stderr


def test_both_sides_may_be_of_one_language(text: list[tuple[str, str]], tmp_path: Path) -> None:
    init(tmp_path, "--src-lang", "en", "--tgt-lang", "en").ok()
    assert {path.name for path in tmp_path.glob("my.valid*")} == {"my.valid.src", "my.valid.tgt"}
    assert load_config(tmp_path / "my.yaml").data.tgt_lang == "en"


def test_one_file_of_pairs_will_do(text: list[tuple[str, str]], tmp_path: Path) -> None:
    rows = [json.dumps({"Q": src, "A": tgt, "number": 1}) for src, tgt in text]
    pairs, valid = write(tmp_path / "pairs.jsonl", rows), write(tmp_path / "valid.de-en.tsv", ["Ein Hund.\tA dog."])
    options = ["--output", tmp_path / "my.yaml", "--src-lang", "en", "--tgt-lang", "de", "--valid-src", valid]
    assert "pairs; columns Q and A; " in tmt_here("init", "--src", pairs, *options).ok().stderr
    data = load_config(tmp_path / "my.yaml").data
    assert (data.train[0].jsonl, data.train[0].src_column, data.train[0].tgt_column) == (str(pairs), "Q", "A")
    assert (data.valid[0].tsv, data.valid[0].src_column, data.valid[0].tgt_column) == (str(valid), 2, 1)
    assert [source.kind for source in data.test] == ["src"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"output": "there.yaml"}, "there.yaml: is there already; name another --output"),
        ({"output": "none/my.yaml"}, "none/my.yaml: cannot be written (no directory"),
        ({"output": "-"}, "--output -: "),
        ({"src": "none.en"}, "none.en: cannot be read"),
        (
            {"src": "few.en", "tgt": "few.de"},
            "few.de: pairs with text on both sides: 3, too few to learn from; some thousands",
        ),
        ({"src": "few.en"}, "few.en has 3 lines, "),
        (
            {"src": "mac.en", "tgt": "mac.de"},
            "mac.de: pairs with text on both sides: 1, too few to learn from; its lines",
        ),
        ({"src": "nel.en", "tgt": "nel.de"}, "1, too few to learn from; its lines end with U+2028 or NEL; give them"),
        ({"src": "latin.en"}, "latin.en"),
        ({"tgt": "link.de"}, "link.de: is named for both sides"),
        ({"tgt": "scores.de"}, "100.0 % of the target sides are numbers, as tables have them beside their text; look"),
    ],
    ids=(
        *("there", "no directory", "stdout", "missing", "few", "unequal", "old line ends", "NEL", "not UTF-8"),
        *("link", "scores"),
    ),
)
def test_what_cannot_be_is_refused(
    options: dict[str, str], reason: str, text: list[tuple[str, str]], tmp_path: Path
) -> None:
    write(tmp_path / "there.yaml", ["mine"])
    for name in ("few.en", "few.de"):
        write(tmp_path / name, ["a", "b", "c"])
    for name in ("mac.en", "mac.de"):
        (tmp_path / name).write_bytes(b"a\rb\rc\r")
    for name in ("nel.en", "nel.de"):
        (tmp_path / name).write_text("a\u0085b\u2028c\u0085", encoding="utf-8")
    (tmp_path / "latin.en").write_bytes(b"M\xfcll\n" * 300)
    (tmp_path / "link.de").symlink_to("train.en")
    write(tmp_path / "scores.de", [f"0.{i}" for i in range(len(text))])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = init(tmp_path, **options)
    assert done.status == 2 and reason in done.refusal
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--valid-tgt", "x.de"], "--valid-tgt x.de: is the target side; name the source side with --valid-src"),
        (["--valid-src", __file__], "test_init.py: has no columns with tabs between them; of one side of the text"),
        (["--src-lang", "de", "--tgt-lang", "en"], "not de to en; exchange --src and --tgt"),
        (["--valid-src", "{}.de", "--valid-tgt", "{}.en"], "not en to de; exchange --valid-src and --valid-tgt"),
        (["--test-src", "{}.en", "--test-tgt", "{}.de"], "train.en: is the text to train on; name other text"),
        (["--test-src", "{}.srt", "--test-tgt", "{}.en"], "train.srt: subtitles, with times; make one file of both"),
        (["--src-column", "1"], "--src-column, --tgt-column: are for one file of pairs"),
        (["--from", "nothing"], "nothing"),
        (["--replay-src", "x.en"], "--replay-src x.en: is old text for a model that is adapted; name that with --from"),
        (["--replay-tgt", "x.de"], "--replay-tgt x.de: is the target side; name the source side with --replay-src"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: list[str], reason: str, text: list[tuple[str, str]], tmp_path: Path
) -> None:
    done = init(tmp_path, *(option.format(tmp_path / "train") for option in options))
    assert done.status == 2 and reason in done.refusal
    assert not (tmp_path / "my.yaml").exists()

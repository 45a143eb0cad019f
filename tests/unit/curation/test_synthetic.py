"""Sources that a model makes: where they go, what they depend on, and that no line is translated twice."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from harness import text, write

from transformer_mt.checkpoints import model_directory
from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.loading import override_search, validate
from transformer_mt.config.sections import SearchConfig
from transformer_mt.curation import synthetic
from transformer_mt.curation.synthetic import synthesize
from transformer_mt.errors import InputError, RunError
from transformer_mt.model.transformer import Transformer
from transformer_mt.system import directories
from transformer_mt.text.tokenizer import Tokenizers

LINES = ["ein Hund", "", "zwei Hunde", " \t", "drei Hunde", "vier", "fünf", "sechs", "sieben"]
PART_LINES = 2


class Found(NamedTuple):
    source: str
    text: str


class Shouter:
    """Stands in for a translator: capital letters, and notes of what it was asked for and what it has translated."""

    calls: list[tuple[Path, dict[str, Any]]]
    others: list[Path]
    lines: list[str]
    answer: Callable[[str], str]

    @classmethod
    def load(cls, path: Path, ensemble: list[Path], settings: dict[str, Any]) -> Self:
        cls.calls.append((path, settings))
        cls.others += ensemble
        return cls()

    def stream(self, lines: Iterable[str]) -> Iterator[Found]:
        for line in lines:
            answer = type(self).answer(line)
            self.lines.append(line)
            yield Found(line, answer)

    def close(self) -> None:
        pass


SHOUTED = ["EIN HUND", "", "ZWEI HUNDE", "", "DREI HUNDE", "VIER", "FÜNF", "SECHS", "SIEBEN"]


@pytest.fixture(autouse=True)
def shouter(monkeypatch: pytest.MonkeyPatch) -> type[Shouter]:
    monkeypatch.setattr(synthetic, "Translator", Shouter)
    monkeypatch.setattr(synthetic, "PART_LINES", PART_LINES)
    Shouter.calls, Shouter.others, Shouter.lines, Shouter.answer = [], [], [], shout
    return Shouter


def shout(line: str) -> str:
    return line.strip().upper()


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory, tokenizers: Tokenizers) -> Callable[..., Path]:
    """Writes a model of some languages that knows nothing."""

    def make(*languages: tuple[str, str], default: str = "en") -> Path:
        path = tmp_path_factory.mktemp("models") / "model"
        train = [{"src": "x", "tgt": "y", "src_lang": src, "tgt_lang": tgt} for src, tgt in languages]
        tree = {
            "data": {"src_lang": "de", "tgt_lang": default, "train": train},
            "model": dict(preset="tiny", d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1),
        }
        config = validate(tree, "test")
        size = tokenizers.src.vocab_size
        model = Transformer(config.model, size, size)
        model_directory.save_model(path, dict(model.named_parameters()), config, tokenizers, longest_src_tokens=10)
        return path

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path]) -> Path:
    """German to English."""
    return make_model(("de", "en"))


def data_of(tmp_path: Path, *sources: dict[str, Any], **settings: Any) -> DataConfig:
    """An English-German corpus; before the sources, its `train` has one of two files."""
    train = [{"src": "a.en", "tgt": "a.de"}, *sources]
    data = {"src_lang": "en", "tgt_lang": "de", "cache_dir": str(tmp_path / "cache"), "train": train, **settings}
    return validate({"data": data}, "test").data


def back_translation(tmp_path: Path, model: Path, **keys: Any) -> dict[str, Any]:
    return {"back_translate": str(write(tmp_path / "mono.de", LINES)), "model": str(model), **keys}


def made(data: DataConfig, section: str = "train") -> tuple[str, str]:
    """The content of both files of a section's last source."""
    source = getattr(synthesize(data, lambda line: None), section)[-1]
    return Path(source.src).read_text("utf-8"), Path(source.tgt).read_text("utf-8")


def place_of(data: DataConfig) -> Path:
    return Path(str(synthesize(data, lambda line: None).train[-1].src)).parent


@pytest.mark.parametrize("section", ["train", "valid", "test"])
def test_back_translation_makes_the_source(tmp_path: Path, model: Path, section: str) -> None:
    source = back_translation(tmp_path, model)
    data = data_of(tmp_path, source) if section == "train" else data_of(tmp_path, **{section: [source]})
    assert made(data, section) == (text(SHOUTED), text(LINES))


def test_distillation_makes_the_target(tmp_path: Path, model: Path) -> None:
    path = write(tmp_path / "mono.de", LINES)
    source = {"distill": str(path), "model": str(model), "src_lang": "de", "tgt_lang": "en"}
    assert made(data_of(tmp_path, source)) == (text(LINES), text(SHOUTED))


def test_the_rest_stays(tmp_path: Path, model: Path) -> None:
    keys = {"name": "more", "weight": 0.5, "tag": "bt"}
    data = data_of(tmp_path, back_translation(tmp_path, model, search={"beam_size": 1}, **keys))
    found = synthesize(data, lambda line: None)
    assert found.train[0] == data.train[0]
    new = found.train[1].model_dump(exclude_defaults=True)
    assert {key: new[key] for key in keys} == keys
    assert set(new) == {"src", "tgt", *keys}
    assert validate({"data": found.model_dump(mode="json")}, "test").data == found, "a configuration that can be stored"


def test_only_the_wanted_parts_are_made(tmp_path: Path, model: Path) -> None:
    """Training does not translate the test text."""
    source = back_translation(tmp_path, model)
    data = data_of(tmp_path, source, test=[{**source, "back_translate": "not.there"}])
    found = synthesize(data, lambda line: None, ("train", "valid"))
    assert found.test == data.test and found.train[1].src is not None


def test_without_such_sources_nothing_happens(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    assert synthesize(data, pytest.fail) == data
    assert not (tmp_path / "cache").exists()


def test_compressed_text_with_odd_line_ends(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "mono.de.gz"
    path.write_bytes(gzip.compress("\ufeffein\r\nzwei\u2028drei\nvier".encode()))
    source = {"back_translate": str(path), "model": str(model)}
    expected = ["ein", "zwei\u2028drei", "vier"]
    assert made(data_of(tmp_path, source)) == (text([line.upper() for line in expected]), text(expected))


def test_made_once_with_one_line_about_it(
    tmp_path: Path, model: Path, shouter: type[Shouter], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"ein Hund": "a dog dog dog dog", "zwei Hunde": " ", "drei Hunde": "three dogs"}  # the others are copies
    shouter.answer = lambda line: answers.get(line, line)
    data = data_of(tmp_path, back_translation(tmp_path, model))
    said: list[str] = []
    made = synthesize(data, said.append)
    assert said == [
        f"{tmp_path}/mono.de (back_translate by {model}): 7 lines translated (blank ones left out: 2), 1 empty, "
        "1 looping, 4 copied from the source"
    ]
    monkeypatch.setattr(directories, "locked", pytest.fail)  # a cache that is made need not be writable
    assert synthesize(data, pytest.fail) == made
    assert len(shouter.calls) == 1
    [place] = (path for path in (tmp_path / "cache" / "synthetic").iterdir() if path.suffix != ".lock")
    assert sorted(path.name for path in place.iterdir()) == ["meta.json", "src", "tgt"]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_interrupted_anywhere_it_goes_on_with_the_next_part(
    tmp_path: Path, model: Path, shouter: type[Shouter], number: int
) -> None:
    class Stop(BaseException):
        pass

    def stop(line: str) -> str:
        if len(shouter.lines) == number:
            raise Stop
        return shout(line)

    data = data_of(tmp_path, back_translation(tmp_path, model))
    shouter.answer = stop
    with pytest.raises(Stop):
        synthesize(data, lambda line: None)
    assert shouter.lines == LINES[:number]
    shouter.answer, shouter.lines = shout, []
    assert made(data) == (text(SHOUTED), text(LINES))
    assert shouter.lines == LINES[number - number % PART_LINES :]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["src", "tgt", "meta.json"])
def test_damaged_text_is_made_anew_and_that_is_told(
    name: str, tmp_path: Path, model: Path, shouter: type[Shouter]
) -> None:
    data = data_of(tmp_path, back_translation(tmp_path, model))
    place = place_of(data)
    for damage in (flip, Path.unlink):
        damage(place / name)
        said: list[str] = []
        shouter.lines = []
        synthesize(data, said.append)
        assert ((place / "src").read_text("utf-8"), (place / "tgt").read_text("utf-8")) == (text(SHOUTED), text(LINES))
        if (name, damage) == ("meta.json", Path.unlink):  # as 0.1.0 has left it
            assert said == [] and shouter.lines == []
        else:
            assert said[0].startswith(f"{place}: the text that a model has made is damaged ({name}")
            assert shouter.lines == LINES


def test_a_damaged_part_is_translated_again(tmp_path: Path, model: Path, shouter: type[Shouter]) -> None:
    data = data_of(tmp_path, back_translation(tmp_path, model))

    def stop(line: str) -> str:
        if line == "sieben":
            raise KeyboardInterrupt
        return shout(line)

    shouter.answer = stop
    with pytest.raises(KeyboardInterrupt):
        synthesize(data, lambda line: None)
    [building] = (tmp_path / "cache" / "synthetic").glob(".*.tmp")
    flip(building / "00000001.part")
    write(building / "00000002.part", ["drei Hunde", "DREI HUNDE", "vier"])
    shouter.answer, shouter.lines = shout, []
    assert made(data) == (text(SHOUTED), text(LINES))
    assert shouter.lines == [*LINES[2:6], "sieben"]


def test_killed_while_the_parts_are_put_away(
    tmp_path: Path, model: Path, shouter: type[Shouter], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(tmp_path, back_translation(tmp_path, model))
    unlink = Path.unlink

    def stop(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.suffix == ".part":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", stop)
        synthesize(data, lambda line: None)
    assert made(data) == (text(SHOUTED), text(LINES))
    assert len(shouter.calls) == 1


def test_a_second_one_waits_and_finds_them(tmp_path: Path, model: Path, shouter: type[Shouter]) -> None:
    data = data_of(tmp_path, back_translation(tmp_path, model))
    is_waiting, results = threading.Event(), []

    def say(line: str) -> None:
        assert line.endswith("another process is translating it; waiting for that")
        is_waiting.set()

    second = threading.Thread(target=lambda: results.append(synthesize(data, say)))

    def slowly(line: str) -> str:
        if not shouter.lines:
            second.start()
        assert is_waiting.wait(60)
        return shout(line)

    shouter.answer = slowly
    first = synthesize(data, lambda line: None)
    second.join(60)
    assert results == [first]
    assert len(shouter.calls) == 1


def test_what_the_place_depends_on(tmp_path: Path, model: Path, make_model: Callable[..., Path]) -> None:
    source = back_translation(tmp_path, model)
    place = place_of(data_of(tmp_path, source))
    write(tmp_path / "copy.de", LINES)

    def again(**changes: Any) -> Path:
        return place_of(data_of(tmp_path, {**source, **changes}))

    for changes in (
        {"back_translate": str(tmp_path / "copy.de")},
        {"search": {"batch_tokens": 100}},
        {"search": {"workers": 2}},
        {"search": {"beam_size": 4}},  # as the model has it
        {"tag": "bt", "weight": 2.0, "name": "x"},
    ):
        assert again(**changes) == place, changes
    assert again(model=[str(model)]) == place
    write(tmp_path / "other.de", LINES[1:])
    another = make_model(("de", "en"))
    others = [
        again(**changes)
        for changes in (
            {"back_translate": str(tmp_path / "other.de")},
            {"search": {"beam_size": 5}},
            {"search": {"sampling": True}},
            {"search": {"sampling": True, "seed": 2}},
            {"model": str(another)},  # other weights
            {"model": [str(model), str(another)]},
            {"model": [str(another), str(model)]},  # whose search it is
        )
    ]
    to_itself = {"distill": source["back_translate"], "model": str(model), "src_lang": "de", "tgt_lang": "en"}
    others.append(place_of(data_of(tmp_path, to_itself)))
    assert len({place, *others}) == 1 + len(others)


def test_settings_reach_the_model(tmp_path: Path, model: Path, shouter: type[Shouter]) -> None:
    search: dict[str, Any] = {"sampling": True, "top_p": 1e-9, "precision": "bfloat16", "tag": "no"}
    synthesize(data_of(tmp_path, back_translation(tmp_path, model, search=search)), lambda line: None)
    [(path, settings)] = shouter.calls
    assert path == model
    assert override_search(SearchConfig(), settings=settings) == SearchConfig(**search)


def test_one_of_several_languages(tmp_path: Path, make_model: Callable[..., Path], shouter: type[Shouter]) -> None:
    model = make_model(("de", "fr"), ("de", "en"), default="fr")
    for language, search in (("en", {}), ("fr", {}), ("en", {"tgt_lang": "english"})):
        source = back_translation(tmp_path, model, src_lang=language, search=search)
        synthesize(data_of(tmp_path, source), lambda line: None)
    expected = [{"tgt_lang": "en"}, {}, {"tgt_lang": "english"}]
    assert [settings for _, settings in shouter.calls] == expected


def test_a_run_is_its_best_checkpoint(tmp_path: Path, model: Path, shouter: type[Shouter]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "best").write_text("step_00000010\n")
    (run / "checkpoints" / "step_00000010").symlink_to(model)
    synthesize(data_of(tmp_path, back_translation(tmp_path, run)), lambda line: None)
    assert shouter.calls == [(run / "checkpoints" / "step_00000010", {})]


def test_several_models_translate_together(
    tmp_path: Path, make_model: Callable[..., Path], shouter: type[Shouter]
) -> None:
    models = [make_model(("de", "en"), ("de", "fr"), default=default) for default in ("en", "en", "fr")]
    source = back_translation(tmp_path, models[0]) | {"model": [str(model) for model in models]}
    said: list[str] = []
    synthesize(data_of(tmp_path, source), said.append)
    assert shouter.calls == [(models[0], {})] and shouter.others == models[1:]
    assert said[0].startswith(f"{tmp_path}/mono.de (back_translate by {models[0]} and 2 more): 7 lines")
    source["model"][2] = str(make_model(("de", "fr"), default="fr"))
    with pytest.raises(InputError, match=r"and 2 more\): its model translates de to fr, it needs one for de to en"):
        synthesize(data_of(tmp_path, source), pytest.fail)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model": "nowhere"}, ["nowhere: no such model directory"]),
        ({"back_translate": "nowhere.de"}, ["nowhere.de: cannot be read (No such file or directory)"]),
        ({"tgt_lang": "fr"}, ["its model translates de to en", "needs one for fr to en"]),
        ({"search": {"beem_size": 3}}, ["search.beem_size: unknown key; did you mean beam_size?"]),
        ({"search": {"beam_size": "x"}}, ["search.beam_size", "found 'x'"]),
        ({"search": {"n_best": 5}}, ["search: n_best 5 needs beam_size 5"]),
    ],
)
def test_refused_before_anything_is_translated(
    tmp_path: Path, model: Path, shouter: type[Shouter], changes: dict[str, Any], parts: list[str]
) -> None:
    good = back_translation(tmp_path, model)
    with pytest.raises(InputError) as refused:
        synthesize(data_of(tmp_path, good, {**good, **changes}), pytest.fail)
    message = str(refused.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []
    assert shouter.calls == []


def test_a_model_of_the_other_direction(tmp_path: Path, model: Path) -> None:
    source = {"distill": str(write(tmp_path / "mono.en", LINES)), "model": str(model)}
    with pytest.raises(InputError, match=r"mono.en .*its model translates de to en, it needs one for en to de; "):
        synthesize(data_of(tmp_path, source), pytest.fail)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"gut\nschlecht\n\xff\n"])
def test_text_that_is_none_leaves_nothing_behind(tmp_path: Path, model: Path, content: bytes) -> None:
    path = tmp_path / "mono.de"
    path.write_bytes(content)
    reason = "line 3: not UTF-8" if b"\xff" in content else "mono.de: no text in it to translate"
    with pytest.raises(InputError, match=reason):
        synthesize(data_of(tmp_path, {"back_translate": str(path), "model": str(model)}), pytest.fail)
    assert [path for path in (tmp_path / "cache" / "synthetic").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, model: Path) -> None:
    data = data_of(tmp_path, back_translation(tmp_path, model))
    (tmp_path / "cache").mkdir()
    write(tmp_path / "cache" / "synthetic", [])
    with pytest.raises(RunError, match=r"synthetic/.*: cannot be written"):
        synthesize(data, pytest.fail)

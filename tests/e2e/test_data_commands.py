"""``tmt data`` as users call it: results on stdout, refusals in one line, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from harness import Done, Running, Trained, environment, symbol_lines, tmt, tmt_here, write, write_config

from transformer_mt.config.loading import load_config
from transformer_mt.system.lines import read_lines
from transformer_mt.toy_corpus import grammar

KOREAN = [("Press OK.", "확인을 누르세요."), ("Open the file.", "파일을 엽니다."), ("", ""), ("Undo", "실행 취소")]


@pytest.fixture(autouse=True)
def _one_process() -> Iterator[None]:
    with patch("transformer_mt.system.processes.num_cores", return_value=1):
        yield


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Sentences of the grammar for each part, and no leaks."""
    data: dict[str, Any] = {"src_lang": "en", "tgt_lang": "de", "cache_dir": str(tmp_path / "cache")}
    for part, count in (("train", 200), ("valid", 20), ("test", 20)):
        pairs = list(grammar.generate(part, count))  # type: ignore[arg-type]
        files = [write(tmp_path / f"{part}.{side}", list(lines)) for side, lines in enumerate(zip(*pairs, strict=True))]
        data[part] = [{"src": str(files[0]), "tgt": str(files[1])}]
    return {"data": data}


def run(command: str, config: dict[str, Any], directory: Path, *options: object) -> Done:
    return tmt_here("data", command, write_config(directory / "config.yaml", config), *options)


def train_on(config: dict[str, Any], directory: Path, pairs: list[tuple[str, str]]) -> None:
    src = write(directory / "train.en", [src for src, _ in pairs])
    tgt = write(directory / "train.ko", [tgt for _, tgt in pairs])
    config["data"] |= {"train": [{"src": str(src), "tgt": str(tgt)}], "tgt_lang": "ko", "valid": [], "test": []}


def test_all_four_go_together(config: dict[str, Any], tmp_path: Path) -> None:
    """Cleaned text is split, and what comes out is checked: nothing is found, and nothing was lost."""
    config["data"]["train"][0]["name"] = "grammar"
    config["data"]["clean"] = {"duplicates": "near"}
    done = run("clean", config, tmp_path, "--output", tmp_path / "clean").ok()
    assert done.stderr == ""
    assert done.lines[0].startswith("200 pairs: ")
    kept = json.loads((tmp_path / "clean/report.json").read_text())["kept"]
    split = ["data", "split", tmp_path / "clean/data.yaml", "--output", tmp_path / "split", "--valid", 7, "--test", 5]
    assert tmt_here(*split).ok().lines[0].startswith(f"{kept} pairs: {kept - 12} train, 7 valid, 5 test; ")
    checked = tmt_here("data", "check", tmp_path / "split/data.yaml").ok()
    assert (checked.lines, checked.stderr) == (["nothing found"], "")
    counts = json.loads(tmt_here("data", "stats", tmp_path / "split/data.yaml", "--json").ok().stdout)
    assert {part: found["total"]["pairs"] for part, found in counts.items()} == {
        "train": kept - 12,
        "valid": 7,
        "test": 5,
    }
    assert counts["train"]["sources"].keys() == {"train.grammar"}
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_left_of_sources_with_stages_can_be_trained_on(config: dict[str, Any], tmp_path: Path) -> None:
    good = config["data"]["train"][0]
    copies = {"src": good["src"], "tgt": good["src"], "name": "copies"}
    config["data"]["train"] = [{**good, "name": "good", "license": "CC-BY-4.0"}, copies]
    stages = [{"steps": 10, "weights": {"good": 1, "copies": 2}}, {"weights": {"copies": 0}}]
    config["data"] |= {"clean": {"drop_identical": True}, "stages": stages}
    run("clean", config, tmp_path, "--output", tmp_path / "clean").ok()
    left = load_config(tmp_path / "clean/data.yaml").data
    assert [(source.name, source.license) for source in left.train] == [("good", "CC-BY-4.0")]
    assert [stage.weights for stage in left.stages] == [{"good": 1}, {}]


def test_cleaning_by_a_models_score(config: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    """Of copies, which it has learned, and lines beside others, the copies stay; training does not score."""
    lines = symbol_lines(60, seed=5, shortest=4, longest=8)
    pairs = [(line, line if i % 3 else lines[i - 1]) for i, line in enumerate(lines)]
    pairs.insert(30, ("漢" * 1500, "漢" * 1500))  # which it spells in bytes
    train_on(config, tmp_path, pairs)
    config["data"] |= {"src_lang": "src", "tgt_lang": "tgt"}  # as the model has it
    both = ("--set", f"data.clean.score_model={trained.run}", "--set", "data.clean.min_score=-1.5")
    run("clean", config, tmp_path, "--output", tmp_path / "clean", *both).ok()
    report = json.loads((tmp_path / "clean/report.json").read_text())
    assert report["rejected"]["too_long_to_score"] == 1
    assert report["examples"]["too_long_to_score"][0]["place"] == "train.0, line 31"
    assert report["rejected"]["low_score"] == len(report["examples"]["low_score"]) * 4 == 20
    assert all(example["source"] != example["target"] for example in report["examples"]["low_score"])
    kept = [(tmp_path / "clean" / name).read_text().splitlines() for name in ("train.0.src", "train.0.tgt")]
    assert kept[0] == kept[1] == [line for i, line in enumerate(lines) if i % 3]
    assert "min_score" not in (tmp_path / "clean/data.yaml").read_text()
    alone = run("clean", config, tmp_path, "--output", tmp_path / "other", "--set", "data.clean.min_score=-1")
    assert "min_score and score_model belong together" in alone.refusal
    training = tmt_here("train", tmp_path / "config.yaml", "--output", tmp_path / "run", *both)
    assert "data.clean.min_score: is for tmt data clean" in training.refusal and not (tmp_path / "run").exists()


def test_stats_of_korean(config: dict[str, Any], tmp_path: Path) -> None:
    train_on(config, tmp_path, KOREAN)
    page = tmp_path / "page.html"
    done = run("stats", config, tmp_path, "--output", page).ok()
    assert done.stderr == f"wrote {page}\n"
    size, row = done.lines[2:4]
    assert size.split()[:3] == ["pairs", "source", "words"]
    assert row.split() == ["train", "4", "6", "6", "27", "22", "0"]
    assert any("Hangul" in line for line in done.lines)
    assert "Hangul" in page.read_text(encoding="utf-8")
    counts = json.loads(run("stats", config, tmp_path, "--json", "--set", "data.clean.max_chars=5").ok().stdout)
    assert counts["train"]["total"]["suspicious"]["too_long_characters"]["pairs"] == 2
    assert counts["train"]["total"]["suspicious"]["empty"]["examples"] == [
        {"place": "train.0, line 3", "source": "", "target": ""}
    ]


@pytest.mark.parametrize("pairs", [[], [("A dog.", "개")], [("", "")]])
def test_tiny_corpora(config: dict[str, Any], tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    train_on(config, tmp_path, pairs)
    assert run("stats", config, tmp_path).ok().lines
    checked = run("check", config, tmp_path)
    assert (checked.status, len(checked.lines)) == ((0, 1) if pairs == [("A dog.", "개")] else (1, 1))
    cleaned = run("clean", config, tmp_path, "--output", tmp_path / "clean")
    split = run("split", config, tmp_path, "--output", tmp_path / "split", "--valid", 1, "--test", 0)
    if pairs == [("A dog.", "개")]:
        assert cleaned.ok().lines == ["1 pair: 1 kept"]
        assert split.ok().lines == ["1 pair: 0 train, 1 valid, 0 test; 1 could have been held out"]
    else:
        assert (cleaned.status, split.status) == (2, 2)
        assert "no sentence pair is left" in cleaned.refusal
        assert ("only 0 pairs have sides" if pairs else "data.train: empty, no sentence pairs") in split.refusal
        assert not (tmp_path / "clean").exists() and not (tmp_path / "split").exists()


def test_findings_end_with_their_number(config: dict[str, Any], tmp_path: Path) -> None:
    lines = list(read_lines(tmp_path / "train.0"))
    shutil.copy(tmp_path / "train.0", tmp_path / "before")
    write(tmp_path / "valid.0", [*list(read_lines(tmp_path / "valid.0"))[:-1], lines[3]])
    write(tmp_path / "test.0", ["Ã¤", *list(read_lines(tmp_path / "test.0"))[1:]])
    done = run("check", config, tmp_path)
    assert done.status == 1
    assert len(done.lines) == 2
    assert done.lines[0].startswith(
        "ruins: test.0: 1 (5.0 %) of 20 source sides hold text that was read in another encoding than its own"
    )
    assert done.lines[1].startswith(
        "ruins: valid.0: 1 (5.0 %) of 20 source sides are in the training text, 1 of them exactly"
    )
    assert done.refusal == (
        f"tmt: 2 findings in {tmp_path / 'config.yaml'}, listed above, of which 2 will ruin a model or its scores"
    )
    assert (tmp_path / "before").read_bytes() == (tmp_path / "train.0").read_bytes()


def test_a_file_that_cannot_be_read(config: dict[str, Any], tmp_path: Path) -> None:
    """A finding to `check`, a refusal to the others."""
    (tmp_path / "train.1").unlink()
    for command, options in (
        ("stats", []),
        ("clean", ["--output", tmp_path / "out"]),
        ("split", ["--output", tmp_path / "out", "--valid", 1, "--test", 1]),
    ):
        done = run(command, config, tmp_path, *options)
        assert (done.status, done.stdout) == (2, b"")
        assert f"{tmp_path / 'train.1'}: cannot be read" in done.refusal
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache").glob("*"))
    done = run("check", config, tmp_path)
    assert (done.status, len(done.lines)) == (1, 1)
    assert f"{tmp_path / 'train.1'}: cannot be read" in done.lines[0]


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("stats", ["--output", "{}/nowhere/page.html"], "no directory "),
        ("stats", ["--set", "data.clean.max_char=3"], "did you mean max_chars?"),
        ("clean", [], "--output"),
        ("clean", ["--output", "{}/nowhere/out"], "no directory "),
        ("clean", ["--output", "{}"], "is read from there"),
        ("clean", ["--output", "{}/used"], "holds something else"),
        ("clean", ["--output", "{}/out", "--set", "data.clean.scripts={{de: [Lation]}}"], "'Latin'"),
        ("clean", ["--output", "{}/out", "--set", "data.tgt_lang=a/b"], "cannot be a file's name"),
        ("split", ["--output", "{}/out", "--valid", 1], "--test"),
        ("split", ["--output", "{}/out", "--valid", -1, "--test", 1], "--valid"),
        ("split", ["--output", "{}/out", "--valid", 500, "--test", 1], "ask for fewer"),
        ("check", ["--set", "data.train=[]"], "train needs at least one source"),
    ],
)
def test_refusals_are_one_line(
    config: dict[str, Any], tmp_path: Path, command: str, options: list[object], words: str
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(command, config, tmp_path, *(str(option).format(tmp_path) for option in options))
    assert (done.status, done.stdout) == (2, b"")
    assert words in done.refusal
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == sorted([*before, "config.yaml"])
    assert (tmp_path / "used/mine").read_text() == "mine"


def test_a_cache_that_cannot_be_written(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    done = run("stats", config, tmp_path)
    assert done.status == 1
    assert f"{tmp_path / 'cache'}: cannot be written" in done.refusal


def test_a_reader_that_goes_away(config: dict[str, Any], tmp_path: Path) -> None:
    """``tmt data check … | head -1``: silence, and status 1."""
    path = write_config(tmp_path / "config.yaml", config)
    write(tmp_path / "valid.0", ["Ã¤"] * 20)
    write(tmp_path / "test.0", ["Ã¤"] * 20)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        for command in (["check", path], ["stats", path, "--json"]):
            done = tmt("data", *command, stdout=pipe)
            assert (done.status, done.stderr) == (1, "")


@pytest.mark.skipif("TMT_DATA" not in os.environ, reason="TMT_DATA names no folder of real text")
@pytest.mark.parametrize("side", [None, 0, 1])
def test_a_lost_line_of_real_text_is_found_and_good_text_is_not_accused(tmp_path: Path, side: int | None) -> None:
    """By several processes: the first 20,000 pairs of Tatoeba's, which are sorted, so that lengths tell nothing."""
    folder = Path(environment()["TMT_DATA"]) / "tatoeba_en_de"
    if not folder.is_dir():
        pytest.skip("TMT_DATA has no tatoeba_en_de")
    texts = [list(read_lines(folder / f"train.{lang}.gz"))[:20_000] for lang in ("en", "de")]
    if side is not None:
        texts[side] = [*texts[side][:10_000], *texts[side][10_001:], "the end"]
    files = [write(tmp_path / f"{number}", lines) for number, lines in enumerate(texts)]
    data = {"src_lang": "en", "tgt_lang": "de", "train": [{"src": str(files[0]), "tgt": str(files[1])}]}
    done = tmt("data", "check", write_config(tmp_path / "config.yaml", {"data": data}))
    if side is None:
        assert done.ok().lines == ["nothing found"]
    else:
        [finding] = done.lines
        assert "between line 10,001 and line 20,000, agree better" in finding or "between line 11,001" in finding
        assert f"look there and above for lines that the {('source', 'target')[side]} lacks" in finding


@pytest.mark.parametrize("command", ["clean", "split", "stats"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(config: dict[str, Any], tmp_path: Path, command: str, number: signal.Signals) -> None:
    cache = tmp_path / "cache"
    for side in ("src", "tgt"):
        path = Path(config["data"]["train"][0][side])
        path.write_text(path.read_text() * 2000)  # seconds of work on a fast machine
    options = ["--output", tmp_path / "out"] if command != "stats" else []
    options += ["--valid", 7, "--test", 5] if command == "split" else []
    before = {*tmp_path.iterdir(), write_config(tmp_path / "config.yaml", config), cache}
    running = Running("data", command, tmp_path / "config.yaml", *options)
    running.wait_until(lambda: cache.exists() and any(cache.iterdir()))
    running.signal(number)
    done = running.end()
    assert (done.status, done.stderr) == (-number, "")
    assert set(tmp_path.iterdir()) == before
    assert list(cache.iterdir()) == []

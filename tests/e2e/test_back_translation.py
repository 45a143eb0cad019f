"""Back-translation and distillation with a model trained in seconds: what `tmt translate` gives, whatever happens."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from harness import Running, Trained, text, tmt_here, translated, write, write_config

from transformer_mt.config.loading import load_config
from transformer_mt.curation import synthetic
from transformer_mt.decoding.translations import Translation
from transformer_mt.decoding.translator import Translator

PART_LINES = 8

# Makes the sources of a configuration, says how many lines it translates, and kills itself on the way to one of them.
MAKE = f"""
import os, signal, sys
from transformer_mt.curation import synthetic
from transformer_mt.config.loading import load_config

synthetic.PART_LINES = {PART_LINES}
stream, number, last = synthetic.Translator.stream, 0, int(sys.argv[2])

def watched(translator, lines):
    global number
    for found in stream(translator, lines):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        number += 1
        yield found

synthetic.Translator.stream = watched
synthetic.synthesize(load_config(sys.argv[1]).data, lambda line: None)
print(number)
"""
LAUNCHER = (sys.executable, "-c", MAKE)
TO_THE_END = -1


@dataclass
class Maker:
    """Makes the sources of configurations in this process."""

    said: list[str] = field(default_factory=list)
    num_translated: int = 0

    def make(self, config: Path) -> tuple[bytes, bytes]:
        """The content of the two files of its only source."""
        self.said.clear()
        self.num_translated = 0
        [source] = synthetic.synthesize(load_config(config).data, self.said.append).train
        return Path(str(source.src)).read_bytes(), Path(str(source.tgt)).read_bytes()


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    maker, stream = Maker(), Translator.stream

    def watched(translator: Translator, lines: Iterable[str]) -> Iterator[Translation]:
        for found in stream(translator, lines):
            maker.num_translated += 1
            yield found

    monkeypatch.setattr(Translator, "stream", watched)
    monkeypatch.setattr(synthetic, "PART_LINES", PART_LINES)
    return maker


@pytest.fixture(scope="module")
def lines(sources: list[str]) -> list[str]:
    return [*sources[:20], "", *sources[20:], " \t", "a b c"]


@pytest.fixture
def configure(tmp_path: Path, trained: Trained, lines: list[str]) -> Callable[..., Path]:
    """Writes a configuration of one source that the model makes, with a cache of its own."""
    text_file = write(tmp_path / "mono", lines)

    def configuration(name: str, kind: str, **search: Any) -> Path:
        config = json.loads(trained.config.read_text())
        source = {kind: str(text_file), "model": str(trained.run), "search": search}
        config["data"] |= {"train": [source], "cache_dir": str(tmp_path / name)}
        if kind == "back_translate":  # the model translates src to tgt
            config["data"] |= {"src_lang": "tgt", "tgt_lang": "src"}
        return write_config(tmp_path / f"{name}.yaml", config)

    return configuration


@pytest.mark.parametrize("kind", ["back_translate", "distill"])
def test_both_directions_as_translated(
    trained: Trained, lines: list[str], maker: Maker, configure: Callable[..., Path], kind: str
) -> None:
    config = configure("cache", kind, beam_size=3, length_penalty=0.0)
    made = maker.make(config)
    assert maker.num_translated == len(lines)
    [report] = maker.said
    assert report.startswith(f"{config.parent}/mono ({kind} by {trained.run}): 41 lines translated (blank ones left ou")
    translations = text(translated(trained, lines, "--beam-size", 3, "--length-penalty", 0.0)).encode()
    given = text(lines).encode()
    assert translations != given
    assert made == ((translations, given) if kind == "back_translate" else (given, translations))
    assert maker.make(config) == made
    assert maker.num_translated == 0
    assert maker.said == []


def test_several_models_translate_together(
    trained: Trained, lines: list[str], maker: Maker, configure: Callable[..., Path]
) -> None:
    earlier = replace(trained, run=min((trained.run / "checkpoints").iterdir()))
    config = configure("cache", "distill")
    tree = json.loads(config.read_text())
    tree["data"]["train"][0]["model"] = [str(earlier.run), str(trained.run)]
    made = maker.make(write_config(config, tree))
    together = translated(earlier, lines, "--ensemble", trained.run)
    assert made == (text(lines).encode(), text(together).encode())
    assert together not in (translated(trained, lines), translated(earlier, lines))


def test_killed_it_goes_on_to_the_same_bytes(lines: list[str], maker: Maker, configure: Callable[..., Path]) -> None:
    whole, cut = (configure(name, "back_translate", sampling=True, seed=3) for name in ("whole", "cut"))
    killed = Running(cut, 2 * PART_LINES + 3, launcher=LAUNCHER).end()
    assert killed.status == -signal.SIGKILL, killed
    made = maker.make(cut)
    assert maker.num_translated == len(lines) - 2 * PART_LINES
    assert maker.make(whole) == made
    assert maker.num_translated == len(lines)
    assert [side.count(b"\n") for side in made] == [len(lines)] * 2
    [place, lock] = sorted((cut.parent / "cut" / "synthetic").iterdir(), key=lambda path: path.name.startswith("."))
    assert lock.name == f".{place.name}.lock"
    assert sorted(path.name for path in place.iterdir()) == ["meta.json", "src", "tgt"]


def test_samples_depend_on_no_number_of_processes_or_parts(
    maker: Maker, configure: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = maker.make(configure("one", "distill", sampling=True, workers=1))
    assert maker.make(configure("two", "distill", sampling=True, workers=2)) == made
    monkeypatch.setattr(synthetic, "PART_LINES", 1000)
    assert maker.make(configure("whole", "distill", sampling=True, workers=2)) == made
    assert maker.make(configure("other", "distill", sampling=True, seed=2)) != made


def test_two_processes_at_once_translate_once(lines: list[str], maker: Maker, configure: Callable[..., Path]) -> None:
    config = configure("cache", "distill")
    both = [Running(config, TO_THE_END, launcher=LAUNCHER) for _ in range(2)]
    done = [one.end().ok() for one in both]
    assert sorted(int(one.lines[0]) for one in done) == [0, len(lines)]
    maker.make(config)
    assert maker.num_translated == 0


def test_made_ahead_by_a_command(maker: Maker, configure: Callable[..., Path], trained: Trained) -> None:
    config = configure("cache", "distill")
    done = tmt_here("data", "synthesize", config).ok()
    [report] = done.stderr.splitlines()
    assert "(distill by " in report
    [line] = done.lines
    assert tuple(Path(path).read_bytes() for path in line.split("\t")) == maker.make(config)
    assert maker.num_translated == 0
    none = tmt_here("data", "synthesize", trained.config)
    assert none.status == 2
    assert none.refusal == f"tmt: {trained.config}: no source has back_translate or distill; add one to data.train"
    wrong = tmt_here("data", "synthesize", config, "--set", "data.src_lang=xx")
    assert wrong.status == 2
    assert f"(distill by {trained.run}): its model translates src to tgt, it needs one for xx to tgt;" in wrong.refusal

"""Translator as other programs use it: threads, forks, line ends, refusals; of a model that has learned nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding.engine import Engine
from transformer_mt.decoding.fitting import batch_tokens, in_halves, num_fitting
from transformer_mt.decoding.model_searcher import ModelSearcher
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError, RunError
from transformer_mt.model.transformer import Transformer
from transformer_mt.search.beam import search
from transformer_mt.text.tokenizer import Tokenizers

needs_forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are Linux's")


class Made:
    """Translators of one model with random weights, and what they have warned of."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        torch.manual_seed(1)
        shape = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
        self.model = Transformer(shape, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
        self.tokenizers = tokenizers
        self.warnings: list[str] = []

    def __call__(self, workers: int = 1, longest: int = 100) -> Translator:
        config = SearchConfig(workers=workers, beam_size=1, max_extra_tokens=2, precision="float32")
        self.searcher = ModelSearcher([self.model], self.tokenizers, config, self.warnings.append)
        return Translator(self.searcher, self.tokenizers, config, longest, self.warnings.append)


@pytest.fixture
def made(tokenizers: Tokenizers) -> Made:
    return Made(tokenizers)


# Large enough that PyTorch uses OpenMP's threads, which a fork does not have.
FORKED = """
import os, torch
from transformer_mt.config.sections import ModelConfig, SearchConfig, TokenizerConfig
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.decoding.translator import Translator

torch.set_num_threads(2)
lines = [f"a {word} is here" for word in ("dog", "cat", "bird", "horse", "cow", "fish")] * 4
tokenizer, _ = train_tokenizer(lines, TokenizerConfig(vocab_size=300))
shape = ModelConfig(d_model=256, d_ff=512, num_heads=4, num_encoder_layers=1, num_decoder_layers=1)
size = tokenizer.vocab_size
config = SearchConfig(workers=1, beam_size=2, max_extra_tokens=1, precision="float32")
model = Transformer(shape, size, size).eval()
translator = Translator.of_models([model], Tokenizers(tokenizer, tokenizer), config, 100)

def found():
    texts = [translation.text for translation in translator.translate(lines)]
    return texts, [round(score, 3) for score in translator.score(lines, lines)]

expected = found()
child = os.fork()
if child == 0:
    os._exit(0 if found() == expected else 3)
assert os.waitpid(child, 0)[1] == 0
assert found() == expected
"""


@needs_forks
def test_a_fork_of_a_process_with_threads_of_openmp() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        env=environment,
        timeout=90,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_forks
def test_the_end_of_a_program_whose_threads_translate() -> None:
    code = FORKED[: FORKED.index("expected =")] + (
        "import threading, time\n"
        "def go():\n"
        "    while True: found()\n"
        "for _ in range(2): threading.Thread(target=go, daemon=True).start()\n"
        "time.sleep(0.2)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=90, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_scores_in_threads(made: Made) -> None:
    translator = made()
    lines = [f"A dog runs {i}." for i in range(6)]
    expected = translator.score(lines, lines)
    with ThreadPoolExecutor(3) as threads:
        assert all(found == expected for found in threads.map(lambda _: translator.score(lines, lines), range(6)))


@needs_forks
def test_close_while_another_thread_waits(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets an answer, or is told."""
    translator = made(workers=2)
    monkeypatch.setattr(made.searcher, "_search", lambda batch: time.sleep(60))
    told: list[str] = []

    def wait() -> None:
        try:
            translator.translate(["A dog runs."] * 8)
        except RunError as error:
            told.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while made.searcher._pool is None or not any(made.searcher._pool._sent.values()):
        time.sleep(0.01)
    translator.close()
    thread.join(10)
    assert [line[:37] for line in told] == ["our processes were ended by close() w"]


@needs_forks
def test_a_stream_goes_on_only_where_it_was_begun(made: Made) -> None:
    with made(workers=2) as translator:
        stream = translator.stream(["A dog runs."] * 8, chunk_lines=4)
        next(stream)
        child = os.fork()
        if child == 0:
            try:
                list(stream)
            except RunError as error:
                os._exit(7 if "begun in process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(list(stream)) == 7


@pytest.mark.parametrize("lines_at_once", [1, 2, 3, 99])
def test_lines_in_front_of_a_refused_one_are_translated(made: Made, lines_at_once: int) -> None:
    def lines() -> Iterator[str]:
        yield from ["A dog runs."] * 5
        raise InputError("stdin, line 6: not UTF-8")

    with made(workers=1) as translator:
        found = []
        with pytest.raises(InputError, match="line 6"):
            for translation in translator.stream(lines(), chunk_lines=lines_at_once):
                found.append(translation.text)
        assert found == [one.text for one in translator.translate(["A dog runs."] * 5)]


@needs_forks
def test_ids_whose_search_failed_leave_nothing_open(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(workers=2) as translator:

        def refuse(batch: object) -> None:
            raise InputError("no")

        monkeypatch.setattr(made.searcher, "_search", refuse)
        with pytest.raises(InputError, match=r"^no$"):
            translator.translate_ids([[5, 3]] * 8)
        assert made.searcher._pool is not None
        assert not made.searcher._pool._open and not made.searcher._pool._results


def test_score_of_texts_with_line_ends_is_the_sum_of_their_lines(made: Made) -> None:
    translator = made()
    one, other = translator.score(["A dog runs.", "Two cats sleep."], ["Ein Hund.", "Katzen."])
    assert one is not None and other is not None
    texts = ["A dog runs.\r\n\nTwo cats sleep.\n", "A dog runs.\n", "\n", ""]
    found = translator.score(texts, ["Ein Hund.\n\nKatzen.", "Ein Hund.", "x\ny", ""])
    assert found == [pytest.approx(one + other, abs=1e-4), pytest.approx(one, abs=1e-4), None, None]
    with pytest.raises(InputError, match="line 2: 2 lines in the source, 1 in the target"):
        translator.score(["a", "a\nb"], ["a", "a b"])
    with pytest.raises(InputError, match="line 1: in its text, a blank line has a target"):
        translator.score(["a\n\nb"], ["a\nc\nb"])


def test_texts_with_line_ends_warn_of_parts(made: Made) -> None:
    long = "A dog runs. " * 4
    made(longest=12).translate([long])
    [warning] = made.warnings
    made(longest=12).translate([f"A dog.\n{long}\n"])
    assert made.warnings == [warning] * 2


def test_lines_of_a_text_that_have_no_pieces_are_blank(made: Made) -> None:
    """As they are by themselves: no translation is made up for them, and nothing fails that looks at each part."""
    translator, text = made(), "\ufffd\n\u200b\nA dog runs.\n\ufffd \ufffd\n\nTwo cats.\n\u200b"
    lines = [found.text for found in translator.translate(text.split("\n"))]
    assert [bool(line) for line in lines] == [False, False, True, False, False, True, False]
    [whole], [explained] = translator.translate([text]), translator.explain([text])
    assert whole.text == explained.text == "\n".join(lines)
    assert [part.source for part in explained.parts] == ["A dog runs.", "Two cats."]


def test_unequal_counts_are_refused(made: Made) -> None:
    translator = made()
    with pytest.raises(InputError, match=r"^2 sources, 1 targets: give one target"):
        translator.score(["a", "b"], ["a"])
    for call in (translator.translate, lambda *texts: [*translator.stream(*texts)]):
        with pytest.raises(InputError, match=r"^1 prefixes, but more lines: "):
            call(["a", "b"], ["a"])
        with pytest.raises(InputError, match=r"^1 lines, but more prefixes: "):
            call(["a"], ["a", "b"])


GPU = torch.device("cuda", 0)


def test_what_does_not_fit_on_a_gpu_is_halved_with_one_warning(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes later has half as many sentences from the start."""
    lines = ["a dog", "a cat", "a bird", "a cow", "a fish"] * 3
    translator = made()
    expected = [translation.text for translation in translator.translate(lines)]
    sizes: list[int] = []

    def small(scorer: Any, src: list[list[int]], *args: Any, **settings: Any) -> Any:
        sizes.append(len(src))
        if len(src) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return search(scorer, src, *args, **settings)

    monkeypatch.setattr("transformer_mt.decoding.model_searcher.search", small)
    with pytest.raises(torch.OutOfMemoryError):
        translator.translate(lines)
    translator = made()
    monkeypatch.setattr(made.searcher._batches, "_device", GPU)
    sizes.clear()
    assert [translation.text for translation in translator.translate(lines)] == expected
    assert sizes[0] == 8  # of 15: see `batch_size`
    [warning] = made.warnings
    assert "out of memory with " in warning and "search.batch_tokens" in warning
    sizes.clear()
    assert [translation.text for translation in translator.translate(lines)] == expected
    assert max(sizes) <= 3
    assert len(made.warnings) == 1


def test_one_sentence_that_does_not_fit_is_a_failure() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    told: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(fail, [1, 2, 3, 4], GPU, told.append)
    assert told == [4, 2]


def test_other_failures_are_not_tried_again() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(fail, [1, 2], GPU, lambda _: pytest.fail("tried again"))


def test_batches_on_a_gpu_follow_its_free_memory(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(made.model, "float32")
    automatic, chosen = SearchConfig(), SearchConfig(batch_tokens=100)
    assert num_fitting([engine], automatic, 10) is None  # on a CPU
    assert (batch_tokens(automatic, torch.device("cpu")), batch_tokens(chosen, GPU)) == (8192, 100)
    assert batch_tokens(automatic, GPU) > 8192
    monkeypatch.setattr(Engine, "device", GPU)
    for name, value in {
        "mem_get_info": (8 << 20, 1 << 30),
        "memory_reserved": 9 << 20,
        "memory_allocated": 1 << 20,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert num_fitting([engine], chosen, 10) is None
    of_short, of_long = (num_fitting([engine], automatic, length) for length in (5, 500))
    assert of_short is not None and of_long is not None and of_short > of_long >= 1
    # A quarter of 8 + 8 MiB, for 10 source positions, 3 · 60 of the target, 8 · 4 more, and 4 rows of scores.
    needed = (10 + 3 * 60 + 32) * 2 * 16 * 4 + 4 * made.tokenizers.tgt.vocab_size * 12
    assert num_fitting([engine, engine], automatic, 10) == (4 << 20) // (2 * needed)

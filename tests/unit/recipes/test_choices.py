"""What is chosen by the size of a text, and how it is written down."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformer_mt.config.loading import load_config, validate
from transformer_mt.config.parts import AdaptedConfig
from transformer_mt.data.batching import Part
from transformer_mt.data.epochs import plan
from transformer_mt.errors import InputError
from transformer_mt.recipes import sizes, trial
from transformer_mt.recipes.adapting import Initial, adapted
from transformer_mt.recipes.sizes import BASE, SMALL, TINY, Corpus, Shape
from transformer_mt.recipes.writing import Choice, Choices, as_text, as_tree
from transformer_mt.text.tokenizer import Tokenizers

CONFIGS = Path(__file__).parents[3] / "configs"
DATA: Choices = {
    "data": [
        Choice("src_lang", "en"),
        Choice("tgt_lang", "de"),
        Choice("train", [{"src": "a", "tgt": "b"}]),
        Choice("valid", [{"src": "c", "tgt": "d"}]),
    ]
}


def test_29_000_pairs_get_the_recipe_that_was_measured() -> None:
    expected = load_config(CONFIGS / "multi30k_en_de.yaml")
    corpus = Corpus(29_000, 16, 470_000 / 29_000)
    assert sizes.shapes_for(corpus) == [TINY]
    choices = sizes.sizes_for(TINY, corpus)
    choices["tokenizer"] = sizes.vocabulary_for(TINY, corpus, 90, has_syllables=False)
    found = validate(as_tree(DATA | choices), "test")
    for section in ("tokenizer", "model", "batch", "optim", "search"):
        assert getattr(found, section) == getattr(expected, section)
    assert (found.train.max_steps, found.train.eval_steps) == (expected.train.max_steps, expected.train.eval_steps)


@pytest.mark.parametrize("num_pairs", [10, 40, 80, 200, 1000, 4000])
def test_epochs_are_counted_as_they_are_planned(num_pairs: int) -> None:
    rng = np.random.default_rng(1)
    tgt_lengths = rng.integers(4, 24, num_pairs).astype(np.int32)
    src_lengths = np.maximum(2, tgt_lengths + rng.integers(-3, 4, num_pairs)).astype(np.int32)
    corpus = Corpus(num_pairs, float(src_lengths.mean()), float(tgt_lengths.mean()))
    config = validate(as_tree(DATA | sizes.sizes_for(TINY, corpus)), "test")
    parts = [Part(0, 0, num_pairs)]
    updates = sum(len(window) for window in plan(src_lengths, tgt_lengths, parts, [1.0], config, epoch=0))
    told = num_pairs * float(tgt_lengths.mean()) / corpus.labels_of(config.batch.max_tokens)
    assert updates == pytest.approx(told, rel=0.1)


def test_the_papers_text_gets_the_papers_recipe() -> None:
    corpus = Corpus(4_500_000, 28, 130 / 4.5)
    assert sizes.shapes_for(corpus)[0] is BASE
    found = validate(as_tree(DATA | sizes.sizes_for(BASE, corpus)), "test")
    assert (found.train.max_steps, found.batch.max_tokens, found.model.dropout) == (100_000, 25_000, 0.1)
    assert found.optim.warmup_steps == 4000
    assert found.optim.lr == pytest.approx(512**-0.5 * 4000**-0.5, rel=0.01)


@pytest.mark.parametrize(
    ("corpus", "shape"),
    [
        (corpus, shape)
        for num_pairs, *tokens in itertools.product(
            [1, 300, 2000, 29_000, 165_000, 469_000, 10**6, 10**8], [3, 40], [3, 40]
        )
        for corpus in [Corpus(num_pairs, *tokens)]
        for shape in sizes.shapes_for(corpus)
    ],
)
def test_choices_of_any_size_go_together(corpus: Corpus, shape: Shape) -> None:
    choices = sizes.sizes_for(shape, corpus)
    choices["tokenizer"] = sizes.vocabulary_for(shape, corpus, 100, has_syllables=False)
    config = validate(as_tree(DATA | choices), "test")
    for seconds in (0.01, 1.0, 300.0):
        saving = sizes.checkpoints(config.train, seconds)
        train = validate(as_tree(DATA | choices | {"train": [*choices["train"], *saving]}), "test").train
        # The last step is validated and saved, and so is each validation's.
        assert train.max_steps % train.eval_steps == train.eval_steps % train.checkpoint_steps == 0
        assert train.checkpoint_steps * seconds <= 600 or train.checkpoint_steps == 1 or seconds > 10
        # Patience is for runs whose rate does not fall to 0, and so is averaging.
        assert (train.patience > 0) == (config.optim.schedule != "cosine") == (train.keep_checkpoints == 5)
    # Muon is measured with the small shapes, where pre-norm goes with it.
    assert (config.optim.optimizer, config.model.norm) == (("adam", "post") if shape is BASE else ("muon", "pre"))
    assert config.optim.warmup_steps < config.train.max_steps / 2
    assert config.train.max_steps >= 12


def test_the_larger_the_text_the_larger_the_model_and_the_shorter_its_share() -> None:
    def largest(num_pairs: int, tokens: float) -> Shape:
        return sizes.shapes_for(Corpus(num_pairs, tokens, tokens))[0]

    assert [largest(n, 10) for n in (149_999, 150_000, 600_000)] == [TINY, SMALL, BASE]
    # Fewer pieces make more tokens of the same text, which stays on its side of each border.
    assert sizes.shapes_for(Corpus(150_000, 12, 12, estimated_size=1_400_000)) == [TINY]
    assert largest(10_000, 200) is SMALL and largest(1_000_000, 1.4) is TINY  # text counts, not pairs
    epochs = []
    for num_pairs in (2000, 29_000, 165_000, 469_000):
        config = validate(as_tree(DATA | sizes.sizes_for(TINY, Corpus(num_pairs, 20, 20))), "test")
        epochs.append(config.train.max_steps * config.batch.max_tokens / (num_pairs * 20))
    assert epochs == sorted(epochs, reverse=True)


def test_a_model_is_adapted_with_the_optimizer_that_trained_it(tokenizers: Tokenizers) -> None:
    corpus, steps = Corpus(20_000, 20, 20), {}
    for optimizer in ("adam", "muon"):
        config = {"data": {"src_lang": "en", "tgt_lang": "de"}, "model": {"preset": "tiny"}}
        optim = {"optimizer": optimizer, "schedule": "cosine", "lr": 0.004, "warmup_steps": 100}
        initial = Initial("model", AdaptedConfig.model_validate({**config, "optim": optim}), tokenizers)
        found = validate(as_tree(DATA | adapted(initial, corpus, replayed=0)), "test")
        assert (found.optim.optimizer, found.optim.lr) == (optimizer, 0.001)
        steps[optimizer] = found.train.max_steps
        with_old_text = validate(as_tree(DATA | adapted(initial, corpus, replayed=1)), "test")
        assert with_old_text.train.max_steps == pytest.approx(2 * found.train.max_steps, rel=0.2)
    assert steps["muon"] < steps["adam"] / 2
    # A model that was adapted has a low rate already, and had small steps for little text.
    again = {**config, "optim": optim, "batch": {"max_tokens": 1024}, "train": {"init_from": "first"}}
    initial = Initial("model", AdaptedConfig.model_validate(again), tokenizers)
    found = validate(as_tree(DATA | adapted(initial, corpus, replayed=0)), "test")
    assert (found.optim.lr, found.batch.max_tokens) == (0.004, 4096)
    unknown = Initial("m", AdaptedConfig.model_validate(config), tokenizers)  # imported
    (rate,) = [choice for choice in adapted(unknown, corpus, replayed=0)["optim"] if choice.key == "lr"]
    assert rate.why.endswith("that the paper would have for its width")


def test_many_characters_need_many_pieces() -> None:
    def keys(num_pairs: int, num_characters: int, has_syllables: bool) -> dict[str, Any]:
        corpus = Corpus(num_pairs, 20, 20)
        choices = sizes.vocabulary_for(BASE, corpus, num_characters, has_syllables=has_syllables)
        return {choice.key: choice.value for choice in choices}

    assert keys(2000, 100, False) == {"vocab_size": 2000, "bpe_dropout": 0.1}
    assert keys(2000, 1201, True) == {
        "type": "unigram",
        "vocab_size": 5000,
        "character_coverage": 0.9995,
        "unigram_alpha": 0.2,
    }
    assert keys(10**7, 3000, True)["vocab_size"] == 32_000
    narrow = sizes.vocabulary_for(TINY, Corpus(10**7, 20, 20), 100, has_syllables=False)
    assert narrow[0].value == 16_000  # more would be most of its weights


def test_longer_sources_leave_fewer_labels_for_a_step() -> None:
    """As many epochs are seen, in more steps."""
    short, long = (validate(as_tree(DATA | sizes.sizes_for(TINY, Corpus(29_000, n, 16))), "test") for n in (16, 32))
    assert long.train.max_steps == pytest.approx(2 * short.train.max_steps, rel=0.1)
    assert long.batch == short.batch
    whys = [
        sizes.sizes_for(TINY, Corpus(n, src, 16))["batch"][0].why for n, src in ((29_000, 32), (29_000, 16), (20, 16))
    ]
    assert ["Sources are longer here" in why for why in whys] == [True, False, False]  # nor where there is little text


def test_what_has_syllables_is_told_side_by_side() -> None:
    assert sizes.tokens_of(88, has_syllables=False) == pytest.approx(21)
    assert sizes.tokens_of(34, has_syllables=True) == pytest.approx(21)


def test_a_step_has_no_more_than_the_text() -> None:
    choices = sizes.sizes_for(TINY, Corpus(100, 3, 3))
    (steps, *_) = [choice for choice in choices["train"] if choice.key == "max_steps"]
    assert steps.why.startswith(f"{steps.value:,} epochs")


def test_a_run_is_cut_to_the_time_there_is() -> None:
    corpus = Corpus(1_000_000, 31, 31)

    def steps(shape: Shape, most: float) -> int:
        return validate(as_tree(DATA | sizes.sizes_for(shape, corpus, most)), "test").train.max_steps

    whole = steps(BASE, 1e9)
    assert steps(BASE, whole / 2) == pytest.approx(whole / 2, rel=0.15)
    # As many as a little less text gets, at least; then a smaller shape is better.
    less = validate(as_tree(DATA | sizes.sizes_for(BASE, Corpus(950_000, 31, 31))), "test")
    assert steps(BASE, 1) * 25_000 == pytest.approx(less.train.max_steps * less.batch.max_tokens, rel=0.2)
    assert steps(SMALL, 1) == pytest.approx(steps(SMALL, 1e9) / 6, rel=0.15)


def test_a_short_run_has_what_short_runs_want() -> None:
    corpus = Corpus(29_000, 16, 470_000 / 29_000)

    def found(most: float, shape: Shape = TINY, corpus: Corpus = corpus) -> Any:
        return validate(as_tree(DATA | sizes.sizes_for(shape, corpus, most)), "test")

    usual, nearly, short = found(9600), found(9600 / 1.1), found(3000)
    assert usual == nearly
    assert (short.train.max_steps, short.train.eval_steps) == (3000, 250)
    assert (short.optim.schedule, short.optim.lr, short.optim.weight_decay) == ("linear", 0.006, 0.1)
    assert (usual.optim.schedule, usual.optim.lr, usual.optim.weight_decay) == ("cosine", 0.004, 0.05)
    assert (usual.model.dropout, found(6000).model.dropout, short.model.dropout) == (0.3, 0.3, 0.2)
    larger = Corpus(165_000, 12, 12)
    assert (found(1e9, SMALL, larger).model.dropout, found(2000, SMALL, larger).model.dropout) == (0.2, 0.1)
    little = Corpus(2000, 12, 12)
    assert found(1000, TINY, little).model.dropout == found(1e9, TINY, little).model.dropout == 0.2


def test_limits_of_length_follow_the_text() -> None:
    def limits(lengths: list[int]) -> dict[str, Any]:
        return {choice.key: choice.value for choice in sizes.token_limits(lengths)}

    assert limits([20] * 1000) == {"max_src_tokens": 100, "max_tgt_tokens": 100}
    assert limits([20] * 999 + [300]) == {"max_src_tokens": 100, "max_tgt_tokens": 100}  # a single one
    assert limits([20] * 900 + [200] * 100) == {}
    assert limits([20] * 990 + [300] * 10) == {"max_src_tokens": 512, "max_tgt_tokens": 512}


def test_text_that_is_too_long_is_not_tried(tokenizers: Tokenizers) -> None:
    config = validate(as_tree(DATA | sizes.sizes_for(TINY, Corpus(2000, 20, 20))), "test")
    long = [[5] * 257] * 3
    with pytest.raises(InputError, match=r"all pairs have more than 256 or 256 tokens on a side; one sentence a line"):
        trial.seconds_per_update(config, tokenizers, long, long)


def test_what_other_programs_take_is_not_counted(tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: while it is theirs, a pass stands still, as it does here in a sleep."""
    config = validate(as_tree(DATA | sizes.sizes_for(TINY, Corpus(2000, 20, 20))), "test")
    monkeypatch.setattr(trial, "_SECONDS", 0.1)
    monkeypatch.setattr(trial, "_wait", lambda _: time.sleep(1.5))
    seconds = trial.seconds_per_update(config, tokenizers, [[5] * 20] * 3, [[6] * 20] * 3)
    assert seconds is not None
    assert 0 < seconds < 1


def test_an_update_takes_what_its_labels_and_the_step_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of which a label takes 2 ms, and a step of the optimizer 300."""
    now = [0.0]
    monkeypatch.setattr(trial, "time", SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: now[0]))

    def passes(seconds: float) -> None:
        now[0] += seconds

    updater: Any = SimpleNamespace(
        device=torch.device("cpu"),
        begin=lambda: None,
        add=lambda batch, num_labels: passes(0.002 * batch.num_labels),
        finish=lambda step: passes(0.3),
    )
    settings = {"batch": [Choice("max_tokens", 100)]}
    config = validate(as_tree(DATA | sizes.sizes_for(TINY, Corpus(2000, 20, 20)) | settings), "test")
    src, tgt = [[5] * 9] * 50, [[6] * 10] * 50  # 10 sentences, 100 labels an update
    assert trial._seconds(updater, config, src, tgt) == pytest.approx(0.002 * 100 + 0.3)


def test_what_is_written_reads_as_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files may be anything, and so may what is said of them."""
    monkeypatch.setenv("HOME", "/wrong")
    names = ["no", "${HOME}/x", "#: {a, b}", "a\u2028b", "'\"\\", "ünï 가", " lead", "- x", "a\nb"]
    choices: Choices = {
        "data": [
            Choice("src_lang", "no", "said: of\nlines #: {x}\u2028 and\rso on"),
            Choice("tgt_lang", "de"),
            Choice("train", [{"src": name, "tgt": name + "2"} for name in names], "w" * 500 + " x" * 200),
            Choice("clean", [Choice("drop_held_out", True, "why"), Choice("scripts", {"no": ["Latin"]})]),
        ],
        "eval": [Choice("tokenize", {"de": "13a"})],
    }
    path = tmp_path / "my.yaml"
    path.write_text(as_text(["heading"], choices), encoding="utf-8")
    config = load_config(path)
    assert config.model_dump() == validate(as_tree(choices), "test").model_dump()
    assert [source.src for source in config.data.train] == names
    assert path.read_text(encoding="utf-8").startswith("# heading\n")

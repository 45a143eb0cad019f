"""Old text beside the new: as much of it, in the old proportions, and only what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import write

from transformer_mt.config.parts import AdaptedConfig
from transformer_mt.errors import InputError
from transformer_mt.recipes.adapting import Initial, check_direction
from transformer_mt.recipes.files import files_of
from transformer_mt.recipes.replay import NOTHING, Amount, replay_for
from transformer_mt.recipes.sides import Files
from transformer_mt.text.tokenizer import Tokenizers

NEW = Amount(50, 50 * 6.0)  # pairs of six characters


@pytest.fixture
def new(tmp_path: Path) -> Files:
    return as_files(pair_of(tmp_path, "new", 50))


def as_files(pair: dict[str, str]) -> Files:
    return files_of(pair["src"], pair["tgt"], (None, None), (None, None))


def pair_of(directory: Path, name: str, count: int) -> dict[str, str]:
    paths = {key: directory / f"{name}.{code}" for key, code in (("src", "en"), ("tgt", "de"))}
    return {key: str(write(path, [f"{key} {i}" for i in range(count)])) for key, path in paths.items()}


def initial(tokenizers: Tokenizers, *train: dict[str, Any], **others: Any) -> Initial:
    data = {"src_lang": "en", "tgt_lang": "de", "train": train, **others}
    return Initial(
        "runs/general", AdaptedConfig.model_validate({"data": data, "model": {"preset": "tiny"}}), tokenizers
    )


def test_regions_of_the_models_languages_are_told_what_to_say(tokenizers: Tokenizers) -> None:
    for languages, remedy in (
        (("en-US", "de-DE"), "if that is the same, say --src-lang en --tgt-lang de"),
        (("de-DE", "en-US"), "choose another model, or say"),
    ):
        with pytest.raises(InputError, match=rf"en to de, the text is {' to '.join(languages)}; {remedy}"):
            check_direction(initial(tokenizers), languages)
    check_direction(initial(tokenizers), ("en", "de"))


def test_the_models_own_text_is_replayed_as_far_as_it_is_there(
    tokenizers: Tokenizers, tmp_path: Path, new: Files
) -> None:
    web, news = pair_of(tmp_path, "web", 300), pair_of(tmp_path, "news", 100)
    model = initial(
        tokenizers,
        {**web, "name": "web", "tag": "web", "weight": 0.5},
        {**news, "tgt_lang": "fr"},
        {**news, "weight": 0},
        {"src": str(tmp_path / "gone.en"), "tgt": str(tmp_path / "gone.de")},
        {"hub": "somebody/corpus", "split": "train"},
        new.settings,
    )
    told: list[str] = []
    replay = replay_for(model, None, new, ("en", "de"), NEW, told.append)
    # 300 · 0.5 + 100 = 250 pairs an epoch before, 50 now: a fifth of each weight.
    assert replay.sources == [{**web, "tag": "web", "weight": 0.1}, {**news, "tgt_lang": "fr", "weight": 0.2}]
    assert replay.share == pytest.approx(1, rel=0.1) and "400 old pairs" in replay.why
    assert "others each time" in replay.why
    assert len(told) == 2 and told[0].startswith(f"warning: not replayed: {tmp_path / 'gone.en'}: cannot be read")


@pytest.mark.parametrize("drop_held_out", [True, False])
def test_what_the_model_has_never_seen_stays_out(
    tokenizers: Tokenizers, tmp_path: Path, new: Files, drop_held_out: bool
) -> None:
    web, valid, test = (pair_of(tmp_path, name, 30) for name in ("web", "valid", "test"))
    gone = {"src": str(tmp_path / "gone.en"), "tgt": str(tmp_path / "gone.de")}
    parts = {"valid": [valid], "test": [gone, {**test, "name": "news"}], "clean": {"drop_held_out": drop_held_out}}
    told: list[str] = []
    replay = replay_for(initial(tokenizers, web, **parts), None, new, ("en", "de"), NEW, told.append)
    if drop_held_out:
        assert replay.held_out == [{**valid, "name": "old_valid"}, {**test, "name": "old_test_1"}]
        assert "may have lines that runs/general was never trained on" in told[1] and "gone.en" in told[1]
    else:
        assert not replay.held_out and len(told) == 1


def test_little_old_text_is_seen_whole(tokenizers: Tokenizers, tmp_path: Path, new: Files) -> None:
    old = as_files(pair_of(tmp_path, "old", 20))
    replay = replay_for(initial(tokenizers), old, new, ("en", "de"), NEW, lambda line: None)
    assert replay.sources == [{**old.settings, "weight": 1.0}] and replay.share == pytest.approx(110 / 300)
    assert "fewer than new ones" in replay.why and "others each time" not in replay.why


def test_without_any_the_user_is_warned(tokenizers: Tokenizers, new: Files) -> None:
    told: list[str] = []
    assert replay_for(initial(tokenizers), None, new, ("en", "de"), NEW, told.append) == NOTHING
    assert "may forget what it could before; name some with --replay-src and --replay-tgt" in told[0]

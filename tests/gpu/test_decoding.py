"""A trained model on a GPU beside the same on the CPU: search, sampling and scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import Trained

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.decoding.engine import Engine
from transformer_mt.decoding.translations import Translation
from transformer_mt.decoding.translator import Translator
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID

pytestmark = pytest.mark.slow

Load = Callable[..., Translator]


@pytest.fixture(scope="module")
def load(trained: Trained) -> Load:
    def load_on(device: torch.device, **settings: Any) -> Translator:
        loaded = load_model(trained.run)
        search = loaded.config.search.model_copy(update={"precision": "float32", **settings})
        return Translator.of_models([loaded.model.to(device)], loaded.tokenizers, search, loaded.longest_src_tokens)

    return load_on


def assert_equal(found: list[Translation], expected: list[Translation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [a.text for a in one.alternatives] == [a.text for a in other.alternatives]
        scores = [a.score for a in other.alternatives]
        assert [a.score for a in one.alternatives] == pytest.approx(scores, abs=1e-4)


def test_probabilities_of_each_step_are_the_cpus(trained: Trained, sources: list[str], device: torch.device) -> None:
    found = []
    for place in (device, torch.device("cpu")):
        loaded = load_model(trained.run)
        assert isinstance(loaded.model, Transformer)
        engine = Engine(loaded.model.to(place), "float32")
        src = [[*ids, EOS_ID] for ids in loaded.tokenizers.src.encode(sources)]
        state, steps = engine.start(src), []
        last = torch.full((len(src), 1), BOS_ID, device=place)
        with torch.inference_mode():
            for step in range(12):
                steps.append(engine.step(state, last).detach().cpu().clone())
                last = torch.full_like(last, 5 + step)
        found.append(torch.stack(steps))
    is_there = found[1] > -torch.inf
    assert bool((is_there == (found[0] > -torch.inf)).all())
    torch.testing.assert_close(found[0][is_there], found[1][is_there], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 1},
        {"beam_size": 4},
        {"beam_size": 5, "n_best": 5, "length_penalty": 1.0, "length_penalty_form": "power", "no_repeat_ngram": 3},
        {"beam_size": 4, "stop": "beam_finished", "min_tokens": 4, "batch_tokens": 200},
        {"sampling": True, "n_best": 3, "temperature": 1.3},
        {"sampling": True, "n_best": 2, "top_k": 10, "top_p": 0.9},
    ],
)
def test_translations_are_the_cpus(
    settings: dict[str, Any], load: Load, sources: list[str], device: torch.device
) -> None:
    expected = load(torch.device("cpu"), **settings).translate(sources)
    assert_equal(load(device, **settings).translate(sources), expected)


def test_prefixes_and_blank_lines(load: Load, sources: list[str], device: torch.device) -> None:
    lines, prefixes = [*sources[:7], "", *sources[7:9]], [source.split()[0] for source in sources[:10]]
    found = [load(place).translate(lines, prefixes=prefixes) for place in (device, torch.device("cpu"))]
    assert_equal(*found)
    assert found[0][7].text == ""


def test_scores_of_given_translations_are_the_cpus(load: Load, sources: list[str], device: torch.device) -> None:
    targets = [" ".join(reversed(source.split())) for source in sources]
    expected = load(torch.device("cpu")).score(sources, targets)
    assert load(device).score(sources, targets) == pytest.approx(expected, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_bfloat16_is_close(beam_size: int, load: Load, sources: list[str], device: torch.device) -> None:
    expected = load(torch.device("cpu"), beam_size=beam_size).translate(sources)
    found = load(device, beam_size=beam_size, precision="bfloat16").translate(sources)
    same = [(one, other) for one, other in zip(found, expected, strict=True) if one.text == other.text]
    assert len(same) >= 0.75 * len(sources)
    for one, other in same:
        assert one.score == pytest.approx(other.score, abs=0.1)
    alone = load(device, beam_size=beam_size, precision="bfloat16", batch_tokens=1).translate(sources)
    assert sum(one.text == other.text for one, other in zip(found, alone, strict=True)) >= 0.75 * len(sources)

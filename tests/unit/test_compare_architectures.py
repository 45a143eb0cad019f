"""`scripts/compare_architectures.py` and `scripts/copy_by_length.py`: what they count. Times are not tested."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.kinds import new_model
from transformer_mt.model.transformer import count_parameters

SCRIPTS = Path(__file__).parents[2] / "scripts"


def imported(name: str) -> Any:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[0]


@pytest.fixture(scope="module")
def script() -> Any:
    return imported("compare_architectures")


@pytest.fixture(scope="module")
def copies() -> Any:
    return imported("copy_by_length")


@pytest.mark.parametrize("kind", ["transformer", "none", "additive", "dot"])
def test_models_are_of_one_size_and_steps_are_those_of_their_layers(kind: str, script: Any) -> None:
    config = load_config(SCRIPTS / "compare_architectures.yaml", script.overrides(kind)).model
    model = new_model(config, 4000, 4000).eval()
    assert count_parameters(model) == pytest.approx(1_830_912, rel=0.02)
    steps = []

    def count(layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        steps.append(len(inputs[0].batch_sizes) if isinstance(layer, torch.nn.GRU) else 1)

    for layer in model.layers:
        layer.register_forward_hook(count)
    batch = script.synthetic(32, 4000, tokens=64)
    assert batch.num_labels == batch.src.num_real == 64
    model.logits(batch)
    assert sum(steps) == script.sequential_steps(config, 32)


def test_score_at_a_time_is_the_last_before_it(script: Any) -> None:
    curve = {150: 10.0, 300: 20.0, 450: 19.0}
    assert script.bleu_at_time(curve, 2.0, 299.0) is None
    assert script.bleu_at_time(curve, 2.0, 600.0) == (300, 20.0)
    assert script.bleu_at_time(curve, 2.0, 5000.0) == (450, 19.0)


def test_copies_are_made_by_models_of_one_size(copies: Any) -> None:
    sizes = [count_parameters(new_model(ModelConfig(**shape), 300, 300)) for shape in copies.MODELS.values()]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.02)


def test_symbols_in_their_place_are_counted(copies: Any) -> None:
    assert copies.in_place("a b c", "a b c") == (3, 3)
    assert copies.in_place("a c", "a b c") == (1, 3)
    assert copies.in_place("x a b c", "a b c") == (0, 4)
    lines = copies.sequences(50, seed=1, shortest=5, longest=8)
    assert {len(line.split()) for line in lines} == {5, 6, 7, 8}

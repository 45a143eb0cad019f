"""Every neighbour of what `tmt init` may choose is a configuration, and another one than what was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import load_script

from transformer_mt.config.loading import load_config
from transformer_mt.recipes import sizes
from transformer_mt.recipes.sizes import BASE, SMALL, TINY, Corpus, Shape
from transformer_mt.recipes.writing import Choice, Choices, as_text

try_neighbours = load_script("try_neighbours")


@pytest.mark.parametrize(("shape", "num_pairs"), [(TINY, 2000), (TINY, 29_000), (SMALL, 165_000), (BASE, 10**7)])
def test_neighbours_are_configurations(shape: Shape, num_pairs: int, tmp_path: Path) -> None:
    source = [{"src": "a", "tgt": "b"}]
    data = [Choice("src_lang", "en"), Choice("tgt_lang", "de"), Choice("train", source), Choice("valid", source)]
    corpus = Corpus(num_pairs, 20, 20)
    choices: Choices = {"data": data, "tokenizer": sizes.vocabulary_for(shape, corpus, 100, has_syllables=False)}
    path = tmp_path / "my.yaml"
    path.write_text(as_text([], choices | sizes.sizes_for(shape, corpus)))
    found = {name: load_config(path, changes) for name, changes in try_neighbours.neighbours(load_config(path))}
    chosen = found.pop("chosen")
    assert all(config != chosen for config in found.values()) and len(found) >= 14
    for config in found.values():
        assert config.train.max_steps % config.train.eval_steps == 0
    assert try_neighbours.result(tmp_path, "bleu") == {}

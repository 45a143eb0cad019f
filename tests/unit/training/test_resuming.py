"""What makes a continuation another run, in the words of a configuration."""

from __future__ import annotations

from typing import Any

from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config
from transformer_mt.training.resuming import differing_keys

SOURCE = {"src": "a.en", "tgt": "a.de"}


def config(**sections: dict[str, Any]) -> Config:
    data = {"src_lang": "en", "tgt_lang": "de", "train": [SOURCE], **sections.pop("data", {})}
    return validate({"data": data, **sections}, "test")


def test_values_are_told_as_a_configuration_has_them() -> None:
    old = config()
    new = config(
        data={
            "train": [SOURCE, {"csv": "b, c.csv", "src_column": "from", "tgt_column": 2}],
            "clean": {"drop_held_out": True},
        },
        optim={"clip_norm": 1.0},
        train={"init_from": "runs/other", "compile": True},
    )
    assert differing_keys(old, new) == [
        "data.clean was {}, is {drop_held_out: true}",
        "optim.clip_norm was 0.0, is 1.0",
    ]
    assert differing_keys(old, new, is_free=True) == [
        "data.train was [{src: a.en, tgt: a.de}], is "
        "[{src: a.en, tgt: a.de}, {csv: 'b, c.csv', src_column: from, tgt_column: 2}]",
        "train.compile was false, is true",
        "train.init_from was not set, is runs/other",
    ]
    assert differing_keys(new, old)[0] == "data.clean was {drop_held_out: true}, is {}"

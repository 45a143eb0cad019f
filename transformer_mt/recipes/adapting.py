"""Choices for a model that is adapted to other text: its shape and vocabulary, a lower rate, fewer steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.config.loading import load_part
from transformer_mt.config.parts import AdaptedConfig
from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.data.readers.languages import nearest
from transformer_mt.errors import InputError
from transformer_mt.recipes.sizes import BY_ROOT_WITH_ADAM, BY_ROOT_WITH_MUON, Corpus, length_of, steps_for
from transformer_mt.recipes.writing import Choice, Choices
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.training.optim import learning_rate

# A quarter of the rate that it was trained with, and a fifth (with Muon a tenth) of the text that a new model of this
# text would see: it has a language to keep. (Measured with one model, docs/results.md.)
_SHARE_OF_RATE, _SHARE_OF_STEPS, _SHARE_WITH_MUON = 0.25, 0.2, 0.1
_LONGEST_WARMUP = 200
_LITTLE = 150_000  # target tokens of a text, below which steps are small


class Initial(NamedTuple):
    """A model to start from."""

    name: str  # as somebody gave it
    config: AdaptedConfig
    tokenizers: Tokenizers

    @property
    def codes(self) -> tuple[str, str]:
        """The languages that it translates where nothing else is said."""
        return self.config.data.src_lang, self.config.data.tgt_lang


def load_initial(path: Path) -> Initial:
    """Read a model to start from.

    Raises:
        InputError: it is none, or a damaged one.
    """
    loaded = load_model(path)
    return Initial(str(path), load_part(loaded.path / "config.yaml", AdaptedConfig), loaded.tokenizers)


def check_direction(initial: Initial, languages: tuple[str, str]) -> None:
    """Refuse a model of other languages.

    Raises:
        InputError: with those that it has.
    """
    directions = initial.config.data.directions()
    if languages not in directions:
        known = ", ".join(f"{src} to {tgt}" for src, tgt in directions)
        remedy = "choose another model, or say with --src-lang and --tgt-lang which of its languages these are"
        for src, tgt in directions:
            if nearest(src, [languages[0]]) and nearest(tgt, [languages[1]]):
                remedy = f"if that is the same, say --src-lang {src} --tgt-lang {tgt}"
        raise InputError(
            f"--from {initial.name}: translates {known}, the text is {languages[0]} to {languages[1]}; {remedy}"
        )


def adapted(initial: Initial, corpus: Corpus, most_steps: float = math.inf, *, replayed: float) -> Choices:
    """Return the choices of model, batch, optimiser and steps.

    Args:
        corpus: the new text.
        most_steps: that there is time for.
        replayed: old text in an epoch, by the new; it gets steps besides.
    """
    config = initial.config
    usual = ModelConfig(preset=config.model.preset).model_dump()
    keys = {key: value for key, value in config.model.model_dump().items() if value != usual[key]}
    peak = learning_rate(config.optim.warmup_steps, config.optim, config.model.d_model, 10**9)
    is_known = "optim" in config.model_fields_set  # of an imported model it is not
    of_what = "that it was trained with" if is_known else "that the paper would have for its width"
    is_muons = config.optim.optimizer == "muon"
    was_adapted = config.train.init_from is not None  # with a lower rate and smaller steps than it began with
    share = 1 if was_adapted else _SHARE_OF_RATE
    max_tokens = 1024 if corpus.size < _LITTLE else 4096
    if not was_adapted:
        max_tokens = min(max_tokens, config.batch.max_tokens)
    by_root = BY_ROOT_WITH_MUON * _SHARE_WITH_MUON if is_muons else BY_ROOT_WITH_ADAM * _SHARE_OF_STEPS
    rule = f"a {'tenth' if is_muons else 'fifth'} of what a new model of this text would get"
    rule += ", and more for the old text" * (replayed > 0)
    length = length_of(by_root * (1 + replayed), 0, corpus.by_root(most_steps, max_tokens), rule)
    max_steps, eval_steps = steps_for(corpus, max_tokens, length.by_root, num_validations=6)
    model = [Choice("preset", config.model.preset, f"the shape of {initial.name}"), *_plain(keys)]
    searched = {
        key: getattr(config.search, key)
        for key in ("beam_size", "length_penalty", "length_penalty_form")
        if getattr(config.search, key) != getattr(SearchConfig(), key)
    }
    return {
        "model": model,
        "batch": [Choice("max_tokens", max_tokens, "target tokens of a step: small steps for little text")],
        "optim": [
            *([Choice("optimizer", "muon", "the one that it was trained with")] if is_muons else []),
            Choice("schedule", "cosine", "falls to 0 at the last step, so that the end is calm"),
            Choice(
                "lr", float(f"{peak * share:.2g}"), f"{'' if was_adapted else 'a quarter of '}the {peak:.2g} {of_what}"
            ),
            Choice("warmup_steps", max(1, min(_LONGEST_WARMUP, max_steps // 6))),
            Choice("clip_norm", 1.0, "against sudden jumps of the loss"),
        ],
        "train": [
            Choice("init_from", initial.name, "its weights and its vocabulary are where this run starts"),
            Choice("max_steps", max_steps, length.why),
            Choice("eval_steps", eval_steps, "often: the best checkpoint is kept, and may come early"),
        ],
        **({"search": _plain(searched)} if searched else {}),
    }


def _plain(keys: dict[str, object]) -> list[Choice]:
    return [Choice(key, value) for key, value in keys.items()]

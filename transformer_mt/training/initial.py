"""The model that a run starts from (``train.init_from``): its vocabulary and its weights, larger where the run adds to
them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from transformer_mt.checkpoints.model_directory import LoadedModel, load_model
from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.sections import Config
from transformer_mt.data.preparing import training_pairs
from transformer_mt.system.console import Tell
from transformer_mt.text import added_pieces
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import is_language_tag, language_tag

_MOST_SHOWN = 5


def initial_tokenizers(config: Config, tags: Collection[str], tell: Tell) -> Tokenizers:
    """Return the vocabulary of the model that a run starts from, with what the run adds to it, which is told.

    Raises:
        InputError: no such model, or it cannot have what is to be added.
    """
    assert config.train.init_from is not None
    old, seed = load_model(config.train.init_from).tokenizers, config.train.seed
    if old.has_languages:  # then every source says which one is wanted
        tags = [*map(language_tag, config.data.tgt_langs()), *tags]

    def lines(sides: Sequence[int]) -> Iterator[str]:
        return (pair[side] for pair in _by_weight(config.data, seed) for side in sides)

    new = added_pieces.grown(old, config.tokenizer, tags, lines, seed)
    for side, before, after in (("", old.src, new.src), (" of the target", old.tgt, new.tgt)):
        added = sorted(after.table.keys() - before.table.keys(), key=after.table.__getitem__)
        if added and not (side and new.is_shared):
            shown = " ".join(added[:_MOST_SHOWN]) + (" …" if len(added) > _MOST_SHOWN else "")
            tell(
                f"tokenizer{side}: {before.vocab_size:,} pieces of {config.train.init_from} and {len(added):,} more: "
                f"{shown}"
            )
    languages = [tag for tag in new.src.tags if is_language_tag(tag) and tag not in old.src.tags]
    if languages and old.has_languages:  # another code of the same language, as <2de> for <2deu>, is easily written
        known = " ".join(filter(is_language_tag, old.src.tags))
        tell(f"warning: {' '.join(languages)} will be learned as a new target language; the model has {known}")
    if new.fingerprint != old.fingerprint and "embeddings" in config.train.freeze:
        tell("warning: train.freeze: embeddings: what is new in the vocabulary keeps the rows that it starts with")
    return new


def initial_weights(path: str, tokenizers: Tokenizers) -> tuple[LoadedModel, dict[str, Tensor]]:
    """Return a model and its parameters by name, with rows for what its vocabulary lacks of another.

    A new row is the mean of the rows of what its text was cut into before (`added_pieces.origins`), and so is a new
    number of the output's bias. The mean of logits is never above all of them: nothing new is said before training.
    """
    initial = load_model(path)
    tensors: dict[str, Tensor] = {name: one.detach() for name, one in initial.model.named_parameters()}
    tables = (
        (("src_embed.weight",), initial.tokenizers.src, tokenizers.src),
        (("tgt_embed.weight", "generator.weight", "generator.bias"), initial.tokenizers.tgt, tokenizers.tgt),
    )
    for names, old, new in tables:
        origins = added_pieces.origins(old, new, tokenizers.src.tags)
        for name in tensors.keys() & {*names}:
            rows = [tensors[name][ids].mean(0) for ids in origins]
            tensors[name] = torch.cat([tensors[name], torch.stack(rows)]) if rows else tensors[name]
    return initial, tensors


def _by_weight(data: DataConfig, seed: int) -> Iterator[tuple[str, str]]:
    """Yield the training pairs, of sources with a weight below 1 such a share: replayed text is not what is new."""
    draw = random.Random(seed)
    for source in data.train:
        weight = 1.0 if source.weight is None else source.weight
        pairs = training_pairs(data.model_copy(update={"train": (source,)}))
        yield from (pair for pair in pairs if weight >= 1 or draw.random() < weight)

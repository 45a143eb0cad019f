"""What both runners of Hugging Face's Marian share: the model in the shapes of our presets, and its updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import transformers

PAD, UNK, BOS, EOS = 0, 1, 2, 3
Pair = tuple[torch.Tensor, torch.Tensor]  # ids of both sides, each with its </s>


def new_model(
    vocab_size: int, d_model: int, d_ff: int, heads: int, layers: int, dropout: float
) -> transformers.MarianMTModel:
    """Return a model in training mode, with one table of embeddings."""
    config = transformers.MarianConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=d_ff,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=d_ff,
        dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    model: transformers.MarianMTModel = transformers.MarianMTModel(config).train()
    return model


def updates(pairs: list[Pair], max_tokens: int, seed: int) -> Iterator[list[Pair]]:
    """Epoch after epoch: pairs sorted by length, cut at the budget of labels (and of source ids), shuffled."""
    rng = np.random.default_rng(seed)
    while True:
        order = [pairs[i] for i in rng.permutation(len(pairs))]
        order.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        cuts, sizes = [0], np.zeros(2, dtype=int)
        for i, (src, tgt) in enumerate(order):
            sizes += (len(src), len(tgt))
            if sizes.max() > max_tokens:
                cuts.append(i)
                sizes[:] = (len(src), len(tgt))
        for i in rng.permutation(len(cuts)):
            yield order[cuts[i] : [*cuts, len(order)][i + 1]]

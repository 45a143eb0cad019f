"""Which model a configuration asks for."""

from __future__ import annotations

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.model.transformer import EncoderDecoder, Transformer


def new_model(config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> EncoderDecoder:
    """Return a model of ``model.kind`` with random weights from torch's generator."""
    kind = Recurrent if config.kind == "recurrent" else Transformer
    return kind(config, src_vocab_size, tgt_vocab_size)

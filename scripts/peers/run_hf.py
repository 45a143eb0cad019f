"""Hugging Face's Marian in a plain PyTorch loop: token batches bucketed by length, cut as ours are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import steady
import torch
import transformers
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

PAD, BOS, EOS = 0, 2, 3  # lines of vocab.txt
Pair = tuple[torch.Tensor, torch.Tensor]


def read_pairs(data: Path) -> list[Pair]:
    """Ids of all sentence pairs, each side with its </s>."""
    ids = {piece: i for i, piece in enumerate((data / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1])}
    sides = [
        [torch.tensor([*(ids[piece] for piece in line.split(" ")), EOS]) for line in text.split("\n")[:-1]]
        for text in ((data / f"train.{lang}").read_text(encoding="utf-8") for lang in ("en", "de"))
    ]
    return list(zip(*sides, strict=True))


def updates(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """Epoch after epoch: pairs sorted by length, cut at the budget of labels (and of source ids), shuffled."""
    rng = np.random.default_rng(1)
    while True:
        order = [pairs[i] for i in rng.permutation(len(pairs))]
        order.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        cuts, sizes = [0], np.zeros(2, dtype=int)
        for i, (src, tgt) in enumerate(order):
            sizes += (len(src), len(tgt))
            if sizes.max() > steady.UPDATE_TOKENS:
                cuts.append(i)
                sizes[:] = (len(src), len(tgt))
        for i in rng.permutation(len(cuts)):
            yield order[cuts[i] : [*cuts, len(order)][i + 1]]


def main() -> None:
    run = steady.Run("HF Marian", transformers.__version__)
    pairs = read_pairs(run.data)
    shape = run.shape
    torch.manual_seed(1)
    config = transformers.MarianConfig(
        vocab_size=10_000,
        d_model=shape["d_model"],
        encoder_layers=shape["layers"],
        encoder_attention_heads=shape["heads"],
        encoder_ffn_dim=shape["d_ff"],
        decoder_layers=shape["layers"],
        decoder_attention_heads=shape["heads"],
        decoder_ffn_dim=shape["d_ff"],
        dropout=shape["dropout"],
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        use_cache=False,
    )
    model = transformers.MarianMTModel(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=shape["lr"], betas=steady.BETAS, fused=True)
    for update in updates(pairs):
        src = pad_sequence([src for src, _ in update], batch_first=True, padding_value=PAD)
        labels = pad_sequence([tgt for _, tgt in update], batch_first=True, padding_value=PAD)
        tgt_in = F.pad(labels[:, :-1], (1, 0), value=BOS)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bfloat16"):
            logits = model(input_ids=src, attention_mask=src != PAD, decoder_input_ids=tgt_in).logits
            loss = F.cross_entropy(
                logits.flatten(0, 1),
                labels.flatten(),
                ignore_index=PAD,
                label_smoothing=steady.LABEL_SMOOTHING,
            )
        optimizer.zero_grad()
        loss.backward()
        run.count(int((labels != PAD).sum()), loss.item())
        optimizer.step()


if __name__ == "__main__":
    main()

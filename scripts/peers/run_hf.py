"""Hugging Face's Marian in a plain PyTorch loop: token batches bucketed by length, cut as ours are."""

from __future__ import annotations

from pathlib import Path

import steady
import torch
import transformers
from marian import BOS, EOS, PAD, Pair, new_model, updates
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


def read_pairs(data: Path) -> list[Pair]:
    """Ids of all sentence pairs, each side with its </s>."""
    ids = {piece: i for i, piece in enumerate((data / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1])}
    sides = [
        [torch.tensor([*(ids[piece] for piece in line.split(" ")), EOS]) for line in text.split("\n")[:-1]]
        for text in ((data / f"train.{lang}").read_text(encoding="utf-8") for lang in ("en", "de"))
    ]
    return list(zip(*sides, strict=True))


def main() -> None:
    run = steady.Run("HF Marian", transformers.__version__)
    pairs = read_pairs(run.data)
    shape = run.shape
    torch.manual_seed(1)
    model = new_model(
        10_000, shape["d_model"], shape["d_ff"], shape["heads"], shape["layers"], dropout=shape["dropout"]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=shape["lr"], betas=steady.BETAS, fused=True)
    for update in updates(pairs, steady.UPDATE_TOKENS, seed=1):
        src = pad_sequence([src for src, _ in update], batch_first=True, padding_value=PAD)
        labels = pad_sequence([tgt for _, tgt in update], batch_first=True, padding_value=PAD)
        tgt_in = F.pad(labels[:, :-1], (1, 0), value=BOS)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bfloat16"):
            logits = model(input_ids=src, attention_mask=src != PAD, decoder_input_ids=tgt_in, use_cache=False).logits
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

"""Hugging Face's Marian learning to translate: a plain PyTorch loop from raw text to scores, as people write them.

It works in an environment with torch, transformers, sentencepiece, sacrebleu and numpy. Each validation, and at the
end the test, is one JSON line on stdout; `learning_speed.py` notes when it comes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path

import sacrebleu
import sentencepiece as spm
import torch
import transformers
from marian import BOS, EOS, PAD, UNK, new_model, updates
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


@torch.inference_mode()
def translate(
    model: transformers.MarianMTModel, pieces: spm.SentencePieceProcessor, texts: list[str], num_beams: int
) -> list[str]:
    model.eval()
    encoded = [torch.tensor([*ids, EOS]) for ids in pieces.encode(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    found = [""] * len(texts)
    for start in range(0, len(order), 100):
        part = order[start : start + 100]
        src = padded([encoded[i] for i in part])
        out = model.generate(
            input_ids=src,
            attention_mask=src != PAD,
            num_beams=num_beams,
            length_penalty=1.0,
            early_stopping=False,
            max_new_tokens=src.shape[1] + 50,
        )
        for i, ids in zip(part, out.tolist(), strict=True):
            end = ids.index(EOS, 1) if EOS in ids[1:] else len(ids)
            found[i] = pieces.decode(ids[1:end])
    model.train()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="train, valid and test, .src and .tgt")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--eval-steps", type=int, required=True)
    parser.add_argument("--lr", type=float, default=0.004)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    text = {
        part: [lines(args.data / f"{part}.{side}") for side in ("src", "tgt")] for part in ("train", "valid", "test")
    }
    model_file = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*text["train"][0], *text["train"][1]]),
        model_writer=model_file,
        model_type="bpe",
        vocab_size=10_000,
        byte_fallback=True,
        character_coverage=0.9999,
        pad_id=PAD,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        minloglevel=2,
    )
    pieces = spm.SentencePieceProcessor(model_proto=model_file.getvalue())
    sides = [[torch.tensor([*ids, EOS]) for ids in pieces.encode(side)] for side in text["train"]]
    pairs = [pair for pair in zip(*sides, strict=True) if max(map(len, pair)) <= 101]
    model = new_model(pieces.get_piece_size(), d_model=128, d_ff=256, heads=4, layers=4, dropout=args.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True)
    for step, update in enumerate(updates(pairs, 4096, args.seed), 1):
        src, labels = padded([src for src, _ in update]), padded([tgt for _, tgt in update])
        tgt_in = F.pad(labels[:, :-1], (1, 0), value=BOS)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            logits = model(input_ids=src, attention_mask=src != PAD, decoder_input_ids=tgt_in, use_cache=False).logits
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=PAD, label_smoothing=0.1
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        progress = max(0, step - args.warmup) / max(1, args.steps - args.warmup)
        rate = args.lr * min(step / args.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        if step % args.eval_steps == 0:
            bleu = sacrebleu.corpus_bleu(translate(model, pieces, text["valid"][0], 1), [text["valid"][1]])
            print(json.dumps({"kind": "valid", "step": step, "bleu": bleu.score}), flush=True)
        if step == args.steps:
            break
    hypotheses = translate(model, pieces, text["test"][0], 5)
    scores = {
        "bleu": sacrebleu.corpus_bleu(hypotheses, [text["test"][1]]).score,
        "chrf": sacrebleu.corpus_chrf(hypotheses, [text["test"][1]]).score,
    }
    print(json.dumps({"kind": "test", "step": args.steps, **scores}), flush=True)


if __name__ == "__main__":
    main()

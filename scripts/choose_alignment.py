#!/usr/bin/env python
"""Measure ways to read word alignments off a model's attention, against sentence pairs that were aligned by hand.

Prints the alignment error rate (Och & Ney 2003; 0 is perfect), precision and recall, in percent: of each decoder layer
(the mean of its heads) and of all, at the step that writes a piece of the translation or at the next, which reads it
(Chen et al. 2020); with the first piece of a word or the mean of all; and with each word of the source linked to where
its weight is greatest, each of the translation, what both say, or what either says. Below, of the diagonal, which asks
no model, and of what `tmt translate --align` does, which was chosen by such tables (docs/results.md).

    python scripts/choose_alignment.py runs/my

Needs a model from English into German, or --gold with pairs of its languages: tests/data/word_alignments.en-de.txt says
what lines look like. Pairs of the built-in corpus, for the quick start's model, are beside it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.decoding.attention_maps import forced_weights
from transformer_mt.decoding.word_alignments import align_pairs
from transformer_mt.decoding.word_links import NO_WORD, source_words
from transformer_mt.system.lines import read_lines
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.text.words import word_numbers

GOLD = Path(__file__).parents[1] / "tests" / "data" / "word_alignments.en-de.txt"

Links = set[tuple[int, int]]


class GoldPair(NamedTuple):
    """A sentence pair with its links: words of the source and the target, counted from 0."""

    source: str
    target: str
    sure: Links
    possible: Links  # the sure ones among them


def read_gold(path: Path) -> list[GoldPair]:
    """Read lines of ``source ||| target ||| links``, where i-j is sure and i?j is possible; # begins a comment."""
    pairs = []
    for line in read_lines(path):
        if not line.startswith("#"):
            source, target, links = line.split(" ||| ")
            kinds: dict[str, Links] = {"-": set(), "?": set()}
            for link in links.split():
                i, kind, j = re.split("([-?])", link)
                kinds[kind].add((int(i), int(j)))
            pairs.append(GoldPair(source, target, kinds["-"], kinds["-"] | kinds["?"]))
    return pairs


class Score(NamedTuple):
    """Of links that were found: shares, from 0 to 1."""

    error_rate: float
    precision: float  # of them, those that are possible
    recall: float  # of the sure ones, those that are found


def score(found: Sequence[Links], gold: Sequence[GoldPair]) -> Score:
    """Return 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|), with precision and recall, all over all sentences together."""
    num_sure = sum(len(links & pair.sure) for links, pair in zip(found, gold, strict=True))
    num_possible = sum(len(links & pair.possible) for links, pair in zip(found, gold, strict=True))
    num_found, num_gold = sum(map(len, found)), sum(len(pair.sure) for pair in gold)
    return Score(
        1 - (num_sure + num_possible) / (num_found + num_gold),
        num_possible / num_found if num_found else 1.0,
        num_sure / num_gold,
    )


def diagonal(pair: GoldPair) -> Links:
    """Link each target word to the source word at the same share of the sentence."""
    last_src, last_tgt = len(pair.source.split()) - 1, len(pair.target.split()) - 1
    return {(round(j * last_src / max(1, last_tgt)), j) for j in range(last_tgt + 1)}


def word_table(weights_LM: Tensor, src_words: Sequence[int], tgt_words: Sequence[int], has_all: bool) -> Tensor:
    """Return how much each word of a translation comes from each of its source (Q, W).

    What a source word's pieces get is added up. Of a translation's word it is what the mean of its pieces gives with
    ``has_all``, else its first.
    """
    src, tgt = torch.tensor(src_words), torch.tensor(tgt_words)
    rows = [weights_LM[tgt == q] for q in range(len({*tgt_words}))]
    weights_QM = torch.stack([row.mean(0) if has_all else row[0] for row in rows])
    return torch.stack([weights_QM[:, src == w].sum(1) for w in range(len({*src_words} - {NO_WORD}))], dim=1)


def linked(weights_QW: Tensor) -> dict[str, Links]:
    """Link words by the greatest weight in each column of a table, in each row, in both and in either."""
    by_source = {(i, j) for i, j in enumerate(weights_QW.argmax(0).tolist())}
    by_target = {(i, j) for j, i in enumerate(weights_QW.argmax(1).tolist())}
    return {"source": by_source, "target": by_target, "both": by_source & by_target, "either": by_source | by_target}


def measure(model: Path, gold: Sequence[GoldPair]) -> tuple[dict[str, dict[str, Score]], Score]:
    """Return the scores of each choice, and of what `tmt translate --align` does."""
    loaded = load_model(model)
    src_tokenizer, tgt_tokenizer = loaded.tokenizers.src, loaded.tokenizers.tgt
    tags = loaded.tokenizers.tag_ids(loaded.config.search.tgt_lang or loaded.config.data.tgt_lang, None)
    src = [[*tags, *ids, EOS_ID] for ids in src_tokenizer.encode([pair.source for pair in gold])]
    tgt = tgt_tokenizer.encode([pair.target for pair in gold])
    src_words = [source_words(pair.source, None, src_tokenizer, len(tags))[0] for pair in gold]
    tgt_words = [word_numbers(pair.target, tgt_tokenizer.starts(pair.target)) for pair in gold]
    found: dict[str, dict[str, list[Links]]] = {}
    by_number = dict(forced_weights(loaded.model, src, [[*ids, EOS_ID] for ids in tgt]))
    for number in range(len(gold)):
        cross_YHLM = by_number[number].cross
        assert cross_YHLM is not None, f"{model} has no attention over its source"
        layers_YLM = cross_YHLM.mean(1)
        named = {f"layer {n}": weights_LM for n, weights_LM in enumerate(layers_YLM, 1)}
        named |= {"all layers": layers_YLM.mean(0)} if len(named) > 1 else {}
        for step, rows in (("writes", slice(0, -1)), ("reads", slice(1, None))):
            for name, weights_LM in named.items():
                for pieces in ("first", "all"):
                    table_QW = word_table(weights_LM[rows], src_words[number], tgt_words[number], pieces == "all")
                    for how, links in linked(table_QW).items():
                        found.setdefault(f"{name} | {step} | {pieces}", {}).setdefault(how, []).append(links)
    scores = {name: {how: score(links, gold) for how, links in of.items()} for name, of in found.items()}
    ours = align_pairs(loaded.model, tgt_tokenizer, list(zip(src, src_words, tgt, strict=True)))
    return scores, score([{*links} for links in ours], gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run, a checkpoint or an averaged model")
    parser.add_argument(
        "--gold", type=Path, default=GOLD, help="sentence pairs aligned by hand  [default: %(default)s]"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    gold = read_gold(options.gold)
    scores, ours = measure(options.model, gold)

    def cell(one: Score) -> str:
        return f"{100 * one.error_rate:.1f} ({100 * one.precision:.0f}/{100 * one.recall:.0f})"

    num_sure, num_possible = sum(len(pair.sure) for pair in gold), sum(len(pair.possible) for pair in gold)
    print(f"{len(gold)} pairs with {num_sure} sure and {num_possible - num_sure} possible links")
    print("Alignment error rate (precision/recall) in percent:\n")
    hows = list(next(iter(scores.values())))
    print(f"| weights | step | pieces | {' | '.join(hows)} |\n| --- | --- | --- |{' --- |' * len(hows)}")
    for name, of in scores.items():
        print(f"| {name} | {' | '.join(cell(of[how]) for how in hows)} |")
    print(f"\ndiagonal: {cell(score([diagonal(pair) for pair in gold], gold))}")
    print(f"tmt translate --align: {cell(ours)}")


if __name__ == "__main__":
    main()

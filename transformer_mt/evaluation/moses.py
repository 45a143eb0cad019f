"""Moses' tokenisation, for the BLEU of papers: lower-cased as that of Multi30k, or with compounds split as GNMT's."""

from __future__ import annotations

import re
from importlib.metadata import version

from sacrebleu.tokenizers.tokenizer_base import BaseTokenizer
from sacremoses import MosesPunctNormalizer, MosesTokenizer

# As Perl matches bytes: white space is ASCII's.
_HYPHEN = re.compile(r"(\S)-(\S)", re.ASCII)


class MosesTokens(BaseTokenizer):
    """What ``tokenizer.perl -l LANGUAGE`` makes of a line, by sacremoses.

    Args:
        normalize: its punctuation first, as ``normalize-punctuation.perl`` does.
        split_hyphens: ``rich-text`` becomes ``rich ##AT##-##AT## text``, as by tensor2tensor's ``get_ende_bleu.sh``.
    """

    def __init__(self, language: str, *, normalize: bool, split_hyphens: bool) -> None:
        self._normalize = MosesPunctNormalizer(language).normalize if normalize else str
        self._tokenize = MosesTokenizer(language).tokenize
        self._split_hyphens = split_hyphens
        kind = f"moses-{language}{'.norm' if normalize else ''}{'.atat' if split_hyphens else ''}"
        self._signature = f"{kind}.sacremoses-{version('sacremoses')}"

    def signature(self) -> str:
        return self._signature

    def __call__(self, line: str) -> str:
        tokens: str = self._tokenize(self._normalize(line), return_str=True)
        return _HYPHEN.sub(r"\1 ##AT##-##AT## \2", tokens) if self._split_hyphens else tokens

"""The ids that every vocabulary starts with, and the symbols that stand for languages and domains."""

from __future__ import annotations

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


def language_tag(language: str) -> str:
    """What a source starts with that shall be translated into a language."""
    return f"<2{language}>"


def domain_tag(domain: str) -> str:
    """What a source of a domain starts with. No domain starts with a digit."""
    return f"<{domain}>"


def is_language_tag(tag: str) -> bool:
    return tag.startswith("<2")

"""A configuration whose keys say why they have their values."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

from transformer_mt.config.loading import as_yaml

_WIDTH = 120  # characters of a line of a comment


class Choice(NamedTuple):
    """A key of a section, its value and, in words, why."""

    key: str
    value: Any  # plain data, or choices of a section inside of the section
    why: str = ""


Choices = dict[str, list[Choice]]  # by section


def as_tree(choices: Choices) -> dict[str, Any]:
    """Return the values without their reasons, as a configuration file has them."""
    return {name: values_of(section) for name, section in choices.items()}


def values_of(section: list[Choice]) -> dict[str, Any]:
    """Return the values of one section."""
    return {one.key: values_of(one.value) if _has_choices(one.value) else _literal(one.value) for one in section}


def _literal(value: Any) -> Any:
    """Return plain data in which nothing is taken from the environment."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _has_choices(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Choice) for one in value)


def as_text(heading: list[str], choices: Choices) -> str:
    """Return a configuration as text, with each reason as a comment above its key."""
    parts = [_comment(line, "") for line in heading]
    for name, section in choices.items():
        parts += [f"\n{name}:\n", *_lines(section, "  ")]
    return "".join(parts)


def _lines(section: list[Choice], indent: str) -> list[str]:
    parts = []
    for key, value, why in section:
        parts.append(_comment(why, indent) if why else "")
        if _has_choices(value):
            parts += [f"{indent}{key}:\n", *_lines(value, f"{indent}  ")]
        else:
            parts.append(textwrap.indent(as_yaml({key: value}), indent))
    return parts


def _comment(text: str, indent: str) -> str:
    """Return a text as lines of a comment. Names of files may hold anything; what ends a line is shown as `?`."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return "".join(
        f"{indent}# {line}\n" for line in textwrap.wrap(printable, _WIDTH - len(indent) - 2, break_long_words=False)
    )

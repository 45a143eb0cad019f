"""What the page asks beside LibreTranslate's interface: translations token by token, and what might stand in the place
of one. Both as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformer_mt.decoding.explanations import Candidate, Explanation
from transformer_mt.server.bodies import Fields, check_size, checked, number_of, text_of
from transformer_mt.server.errors import RequestError

_MOST_CANDIDATES, _USUAL_CANDIDATES = 20, 8


@dataclass(frozen=True)
class AskedSteps:
    """What `POST /explain` and `POST /candidates` ask for."""

    text: str
    source: str  # or "auto"
    target: str
    prefix: tuple[str, ...] | None  # pieces
    num_candidates: int
    num_alternatives: int


def asked_steps(fields: Fields, max_characters: int) -> AskedSteps:
    """Check what one of the two was given.

    Raises:
        RequestError: a field is missing or wrong, or the text is too long.
    """
    text, prefix = text_of(fields, "q"), fields.get("prefix")
    check_size([text], max_characters, 1)
    if prefix is not None and not isinstance(prefix, list):
        raise RequestError(400, "Invalid request: prefix parameter is not a list of pieces")
    pieces = None if prefix is None else tuple(checked(piece, "prefix") for piece in prefix)
    number = number_of(fields, "number") or _USUAL_CANDIDATES
    return AskedSteps(
        text,
        text_of(fields, "source"),
        text_of(fields, "target"),
        pieces,
        min(number, _MOST_CANDIDATES),
        number_of(fields, "alternatives"),
    )


def explanation_as_json(found: Explanation, num_alternatives: int) -> dict[str, Any]:
    return {
        "translatedText": found.text,
        "alternatives": found.alternatives[:num_alternatives],
        "before": found.before,
        "parts": [
            {
                "source": part.source,
                "text": part.text,
                "after": part.after,
                "tokens": [
                    {"piece": token.piece, "text": token.text, "word": token.word, "logProb": token.log_prob}
                    for token in part.tokens
                ],
            }
            for part in found.parts
        ],
    }


def candidates_as_json(found: list[Candidate]) -> dict[str, Any]:
    return {
        "candidates": [
            {"piece": one.piece, "logProb": one.log_prob, "word": one.word, "translatedText": one.text} for one in found
        ]
    }

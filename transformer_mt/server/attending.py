"""What a model looks at in a sentence and its translation, as numbers for the page: `POST /attention`.

Shapes: Y layers, H heads, L positions of queries, M positions of keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformer_mt.errors import InputError
from transformer_mt.server.batcher import ServedTranslator
from transformer_mt.server.bodies import Fields, check_size, text_of
from transformer_mt.server.errors import RequestError

if TYPE_CHECKING:
    from transformer_mt.decoding.attention_maps import AttentionMap, Positions

LONGEST = 100  # tokens of a side: 3 to 4 MB of an answer for 6 layers of 8 heads
_PARTS = 1000  # of a weight of 1


@dataclass(frozen=True)
class AskedAttention:
    """What `POST /attention` asks for."""

    text: str
    translation: str | None  # None: the model's own
    source: str
    target: str

    @classmethod
    def of(cls, fields: Fields, max_characters: int) -> AskedAttention:
        """Check it.

        Raises:
            RequestError: a field is missing or wrong, or the texts are too long.
        """
        text = text_of(fields, "q")
        translation = text_of(fields, "translation") if fields.get("translation") else None
        check_size([text, translation or ""], max_characters, 2)
        return cls(text, translation, text_of(fields, "source"), text_of(fields, "target"))

    @property
    def num_characters(self) -> int:
        return len(self.text) + len(self.translation or "")

    def answer(self, translator: ServedTranslator, tags: Sequence[int]) -> bytes:
        """Return the weights of one forced pass as JSON: made here, in the model's thread, because it takes a while.

        Raises:
            RequestError: 400, the text or its translation is not one sentence of at most `LONGEST` tokens.
        """
        try:
            maps = translator.attention_maps(self.text, self.translation, tags=tags, longest=LONGEST)
        except InputError as error:
            raise RequestError(400, f"Invalid request: {error}") from None
        answer = {use: None if found is None else _as_dict(found) for use, found in maps._asdict().items()}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def _as_dict(found: AttentionMap) -> dict[str, Any]:
    """Return it with its weights in thousandths, which are a third of the bytes that decimals are."""
    weights_YHLM = (found.weights_YHLM * _PARTS).round().int().tolist()
    return {"queries": _side(found.queries), "keys": _side(found.keys), "weights": weights_YHLM}


def _side(positions: Positions) -> dict[str, Any]:
    """Return its pieces, and its words with the first of their pieces and the one after their last."""
    words = [{"text": word.text, "start": word.pieces.start, "end": word.pieces.stop} for word in positions.words]
    return {"pieces": positions.pieces, "words": words}

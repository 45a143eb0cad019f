"""What a request's body says: JSON or a form, of bounded size and in bounded time, checked before anything is done."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from transformer_mt.server.errors import GONE, RequestError
from transformer_mt.server.models import shown

Fields = dict[str, Any]
_MOST_FIELDS = 32  # of a form

# A broken form is its sender's affair, who is told so: no line on stderr for each.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Asked:
    """What `POST /translate` asks for."""

    texts: list[str]
    is_list: bool  # the answer is one as well
    source: str  # or "auto"
    target: str
    num_alternatives: int
    is_html: bool


async def read_fields(request: Request, max_bytes: int, seconds: float) -> Fields:
    """Read a body that is a JSON object or a form; of a form, what its address says counts, too.

    Raises:
        RequestError: 413 too large, 408 too slow, 415 of another kind, 400 broken, 499 cut short.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _read_body(request, max_bytes)
    except TimeoutError:
        raise RequestError(408, f"Invalid request: the body did not come within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise RequestError(GONE, "The client has gone") from None
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    query = str(request.scope["query_string"], "latin-1")
    try:
        text = body.decode("utf-8-sig")  # a byte order mark, which some clients send, is none of it
        if kind == "application/json":
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise RequestError(400, "Invalid JSON format: not an object")
            return fields
        if kind == "application/x-www-form-urlencoded" or (not kind and not text):
            return _named([*_pairs(query), *_pairs(text)])
        if kind == "multipart/form-data":
            return _named([*_pairs(query), *await _read_parts(request, body)])
    except UnicodeDecodeError:
        raise RequestError(400, "Invalid request: it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise RequestError(400, f"Invalid request: the body is not what its Content-Type says, {kind}") from None
    raise RequestError(415, "Content-Type: application/json, application/x-www-form-urlencoded or multipart/form-data")


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read it whole, and no more than it may have."""
    too_large = RequestError(413, f"Invalid request: the body has more than {max_bytes} bytes")
    if int(request.headers.get("Content-Length", 0)) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


async def _read_parts(request: Request, body: bytes) -> list[tuple[str, Any]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    # It is UTF-8, whatever else it names.
    parts = request.headers["Content-Type"].split(";")
    kind = ";".join(part for part in parts if not part.strip().lower().startswith("charset="))
    scope = {**request.scope, "headers": [(b"content-type", kind.encode("latin-1"))]}
    try:
        form = await Request(scope, receive).form(max_files=0, max_fields=_MOST_FIELDS, max_part_size=len(body))
    except HTTPException as error:
        raise RequestError(400, f"Invalid request: {error.detail}") from None
    return form.multi_items()


def _pairs(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)


def _named(pairs: Iterable[tuple[str, Any]]) -> Fields:
    """A form's fields by their names: none of them is given twice, in the address or in the body."""
    fields: Fields = {}
    for name, value in pairs:
        if name in fields:
            raise RequestError(400, f"Invalid request: {shown(name)} is given twice")
        fields[name] = value
    return fields


def text_of(fields: Fields, name: str) -> str:
    """A field that must be there, and be text."""
    value = fields.get(name)
    if value is None or value == "":
        raise RequestError(400, f"Invalid request: missing {name} parameter")
    return checked(value, name)


def checked(value: object, name: str) -> str:
    """A field, or one text of several in it."""
    if not isinstance(value, str):
        raise RequestError(400, f"Invalid request: {name} parameter is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell half of a character: "\ud800"
        raise RequestError(400, f"Invalid request: {name} parameter is not Unicode text") from None
    return value


def asked(fields: Fields, max_characters: int, max_texts: int) -> Asked:
    """Check what `POST /translate` was given.

    Raises:
        RequestError: a field is missing or wrong, or the texts are too long or too many.
    """
    q = fields.get("q")
    texts = [checked(text, "q") for text in q] if isinstance(q, list) and q else [text_of(fields, "q")]
    check_size(texts, max_characters, max_texts)
    form = checked(fields.get("format") or "text", "format")
    if form not in ("text", "html"):
        raise RequestError(400, f"{shown(form)} format is not supported")
    source, target = text_of(fields, "source"), text_of(fields, "target")
    num_alternatives = number_of(fields, "alternatives")
    return Asked(texts, isinstance(q, list), source, target, num_alternatives, form == "html")


def check_size(texts: list[str], max_characters: int, max_texts: int) -> None:
    if len(texts) > max_texts:
        raise RequestError(400, f"Invalid request: request ({len(texts)} texts) exceeds text limit ({max_texts})")
    if (size := sum(map(len, texts))) > max_characters:
        raise RequestError(400, f"Invalid request: request ({size} characters) exceeds text limit ({max_characters})")


def number_of(fields: Fields, name: str) -> int:
    """A field that is a number from 0 on, as JSON or a form has it; 0 where there is none."""
    value = fields.get(name) or 0
    try:
        if isinstance(value, str | int) and not isinstance(value, bool) and int(value) >= 0:
            return int(value)
    except ValueError:
        pass
    raise RequestError(400, f"Invalid request: {name} parameter is not a number from 0 on")

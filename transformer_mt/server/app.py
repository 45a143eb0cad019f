"""LibreTranslate's interface over HTTP, so that its clients work unchanged. Refusals are ``{"error": …}``."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from transformer_mt.decoding.translations import Translation
from transformer_mt.errors import InputError
from transformer_mt.server.attending import AskedAttention
from transformer_mt.server.batcher import Answer
from transformer_mt.server.bodies import Fields, asked, check_size, read_fields, text_of
from transformer_mt.server.description import description_routes
from transformer_mt.server.errors import GONE, RequestError
from transformer_mt.server.explaining import asked_steps, candidates_as_json, explanation_as_json
from transformer_mt.server.markup import Page
from transformer_mt.server.metrics import Measured, Metrics
from transformer_mt.server.models import Models, language_name
from transformer_mt.server.page import page_routes
from transformer_mt.text.languages import probable_languages

# As JSON or a form may spell a character: "\ud83d\ude00", %F0%9F%98%80.
_BYTES_OF_CHARACTER, _BYTES_BESIDES = 12, 1 << 16
_MOST_DETECTED = 4096  # characters that are looked at to tell a language
_MOST_GUESSES = 3

Detected = dict[str, Any]  # {"language": "en", "confidence": 93}, of at most 100


@dataclass(frozen=True)
class Settings:
    """What a server allows."""

    max_characters: int  # of the texts of a request
    max_texts: int  # of a request
    timeout_seconds: float  # for a request to come, and for its answer to be made
    api_keys: frozenset[bytes] = frozenset()  # SHA-256 of each; none: no key is needed
    cors_origins: tuple[str, ...] = ()
    max_connections: int = 500


class Interface:
    """The answers to each path."""

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self._models, self._settings, self._metrics = models, settings, metrics

    def routes(self) -> list[Route]:
        return [
            Route("/translate", self.translate, methods=["POST"]),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/candidates", self.candidates, methods=["POST"]),
            Route("/detect", self.detect, methods=["POST"]),
            Route("/attention", self.attention, methods=["POST"]),
            Route("/languages", self.languages),
            Route("/health", self.health),
            Route("/frontend/settings", self.frontend_settings),
            Route("/metrics", self.metrics),
            *page_routes(),
            *description_routes(),
        ]

    def app(self) -> ASGIApp:
        routes = self.routes()
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._settings.cors_origins,
            allow_headers=["*"],
            allow_methods=["GET", "POST"],
        )
        app = Starlette(
            routes=routes,
            middleware=[cors] if self._settings.cors_origins else [],
            exception_handlers={RequestError: _refused, HTTPException: _not_found, Exception: _failed},
        )
        app.router.redirect_slashes = False  # to an address made of the client's Host, which a proxy need not know
        return Measured(app, self._metrics, frozenset(route.path for route in routes))

    async def translate(self, request: Request) -> Response:
        fields = await self._fields(request)
        wanted = asked(fields, self._settings.max_characters, self._settings.max_texts)
        pages = await asyncio.to_thread(_read, wanted.texts) if wanted.is_html else []
        segments = [segment for page in pages for segment in page.segments]
        texts = [segment.text for segment in segments] if wanted.is_html else wanted.texts
        check_size(texts, self._settings.max_characters, self._settings.max_texts)
        source, detected = await self._source(texts, wanted.source, wanted.target)
        align = [segment.has_inlines for segment in segments] if wanted.is_html else None
        most = 0 if wanted.is_html else wanted.num_alternatives
        waiting = self._models.submit(texts, source, wanted.target, align, most + 1 if most else None)
        found = await self._answered(waiting, request)
        self._metrics.characters.inc(sum(map(len, texts)))
        translated = await asyncio.to_thread(_written, pages, found) if pages else [one.text for one in found]
        answer: dict[str, list[Any]] = {"translatedText": translated}
        if detected is not None:
            answer["detectedLanguage"] = [detected] * len(wanted.texts)
        if wanted.num_alternatives:  # of pages there are none
            answer["alternatives"] = [[] for _ in pages] or [_alternatives(one, most) for one in found]
        return JSONResponse(answer if wanted.is_list else {key: values[0] for key, values in answer.items()})

    async def explain(self, request: Request) -> Response:
        """A translation token by token, from the pieces on that are given."""
        wanted = asked_steps(await self._fields(request), self._settings.max_characters)
        source, detected = await self._source([wanted.text], wanted.source, wanted.target)
        prefix, n_best = wanted.prefix, wanted.num_alternatives + 1
        asked = self._models.ask("explain", wanted.text, source, wanted.target, prefix=prefix, n_best=n_best)
        [found] = await self._answered([asked], request)
        self._metrics.characters.inc(len(wanted.text))
        return JSONResponse(
            explanation_as_json(found, wanted.num_alternatives) | ({"detectedLanguage": detected} if detected else {})
        )

    async def candidates(self, request: Request) -> Response:
        """What might follow the pieces that are given."""
        wanted = asked_steps(await self._fields(request), self._settings.max_characters)
        source, _ = await self._source([wanted.text], wanted.source, wanted.target)
        prefix, count = wanted.prefix or (), wanted.num_candidates
        asked = self._models.ask("candidates", wanted.text, source, wanted.target, count, prefix=prefix, count=count)
        [found] = await self._answered([asked], request)
        return JSONResponse(candidates_as_json(found))

    async def detect(self, request: Request) -> Response:
        text = text_of(await self._fields(request), "q")
        check_size([text], self._settings.max_characters, 1)
        if find_spec("py3langid") is None:
            raise RequestError(501, "Languages are not detected: the server lacks the extra langid")
        langs = {lang for direction in self._models.directions for lang in direction}
        found = await asyncio.to_thread(_detected, text, sorted(langs))
        if not found:
            raise RequestError(501, "Languages are not detected: those of the server cannot be told apart")
        return JSONResponse(found)

    async def attention(self, request: Request) -> Response:
        wanted = AskedAttention.of(await self._fields(request), self._settings.max_characters)
        waiting = self._models.tell_attention(wanted.answer, wanted.num_characters, wanted.source, wanted.target)
        [answer] = await self._answered([waiting], request)
        return Response(answer, media_type="application/json")

    async def languages(self, request: Request) -> Response:
        targets: dict[str, list[str]] = {}
        for source, target in sorted(self._models.directions):
            targets.setdefault(source, []).append(target)
            targets.setdefault(target, [])
        return JSONResponse(
            [{"code": code, "name": language_name(code), "targets": of} for code, of in sorted(targets.items())]
        )

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def frontend_settings(self, request: Request) -> Response:
        source, target = self._models.directions[0]
        has_keys = bool(self._settings.api_keys)
        return JSONResponse(
            {
                "charLimit": self._settings.max_characters,
                "textLimit": self._settings.max_texts,
                "frontendTimeout": 500,  # milliseconds after a key before a page asks
                "apiKeys": has_keys,
                "keyRequired": has_keys,
                "suggestions": False,
                "filesTranslation": False,
                "attention": self._models.tells_attention,
                "detection": find_spec("py3langid") is not None,
                "supportedFilesFormat": [],
                "language": {
                    "source": {"code": source, "name": language_name(source)},
                    "target": {"code": target, "name": language_name(target)},
                },
            }
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _fields(self, request: Request) -> Fields:
        """Read the body, and see that its key is one of ours."""
        max_bytes = _BYTES_OF_CHARACTER * self._settings.max_characters + _BYTES_BESIDES
        fields = await read_fields(request, max_bytes, self._settings.timeout_seconds)
        if keys := self._settings.api_keys:
            if not fields.get("api_key"):
                raise RequestError(400, "Please contact the server operator to get an API key")
            if hashlib.sha256(text_of(fields, "api_key").encode()).digest() not in keys:
                raise RequestError(403, "Invalid API key")
        return fields

    async def _source(self, texts: list[str], source: str, target: str) -> tuple[str, Detected | None]:
        """The language that texts are in, and what was detected where that is to be told."""
        if source != "auto":
            return source, None
        detected = await asyncio.to_thread(self._detect_source, texts, target)
        return detected["language"], detected

    async def _answered(self, waiting: list[Future[Answer]], request: Request) -> list[Answer]:
        """Wait for models, or until time is up or the client has gone: what has not begun by then never does."""
        found = asyncio.ensure_future(_all(waiting))
        gone = asyncio.ensure_future(_leave_of(request))
        both: set[asyncio.Future[Any]] = {found, gone}
        seconds = self._settings.timeout_seconds
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if found.done():
            gone.cancel()
            if found.exception() is not None:  # of one of them: nobody waits for the others any more
                for one in waiting:
                    one.cancel()
            try:
                return found.result()
            except InputError as error:  # what only the model can tell of a request
                raise RequestError(400, f"Invalid request: {error}") from None
        for one in waiting:
            one.cancel()
        found.cancel()
        if gone.done():
            raise RequestError(GONE, "The client has gone")
        gone.cancel()
        raise RequestError(503, f"The answer was not ready within {seconds:g} seconds", retry_after=1)

    def _detect_source(self, texts: list[str], target: str) -> Detected:
        """The likeliest of the languages that are translated into the target; where there is one, that one."""
        sources = self._models.sources_into(target)
        if found := _detected("\n".join(texts), sources):
            return found[0]
        if len(sources) == 1:
            return {"language": sources[0], "confidence": 0}
        if not sources:
            return {"language": "auto", "confidence": 0}  # which is refused, with the target
        raise RequestError(
            501, f"Name the source language, one of {', '.join(sources)}: the server cannot tell them apart"
        )


def _detected(text: str, langs: list[str]) -> list[Detected]:
    found = probable_languages(text[:_MOST_DETECTED], langs)[:_MOST_GUESSES]
    return [{"language": lang, "confidence": round(100 * probability)} for lang, probability in found]


def _read(texts: list[str]) -> list[Page]:
    return list(map(Page, texts))


def _written(pages: list[Page], translations: Iterable[Translation]) -> list[str]:
    segments = (segment for page in pages for segment in page.segments)
    for segment, one in zip(segments, translations, strict=True):
        segment.replace(one.text, one.alignment)
    return list(map(str, pages))


def _alternatives(translation: Translation, most: int) -> list[str]:
    """Other translations than the best, each once; as many as were asked for and the search has found."""
    texts = dict.fromkeys(one.text for one in translation.alternatives)
    return [text for text in texts if text != translation.text][:most]


async def _all(waiting: list[Future[Answer]]) -> list[Answer]:
    return await asyncio.gather(*map(asyncio.wrap_future, waiting))


async def _leave_of(request: Request) -> None:
    """Wait until the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """What was not expected: the client is told no more, the traceback is on stderr."""
    return JSONResponse({"error": "The server failed"}, 500)

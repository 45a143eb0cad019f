"""The models of a server, found by the languages that they translate from and into."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import langcodes
from langcodes.tag_parser import LanguageTagError

from transformer_mt.decoding.translations import Translation
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.server.batcher import Answer, Batcher, Observe, ServedTranslator
from transformer_mt.server.errors import RequestError

Direction = tuple[str, str]  # source and target language


class Models:
    """Batchers and the tags of their sources, by direction. Close it, or use it as a context."""

    def __init__(self) -> None:
        self._routes: dict[Direction, tuple[Batcher, Sequence[int]]] = {}
        # PyTorch's models are loaded and work in one thread. For each that computes OpenMP starts others, as many as
        # cores; where these are more than the cores, they sleep after each of a search's small operations.
        self._thread = ThreadPoolExecutor(1)

    @classmethod
    def load(cls, paths: Iterable[Path], overrides: Iterable[str], max_waiting: int, observe: Observe) -> Self:
        """Load them, one after the other.

        Raises:
            InputError: one is no model, or translates what another one does.
        """
        models, names, overrides = cls(), dict[Direction, Path](), list(overrides)
        with contextlib.ExitStack() as stack:
            stack.callback(models.close)
            for path in paths:
                translator = models._thread.submit(Translator.load, path, overrides).result()
                for direction in translator.directions:
                    if direction in names:
                        raise InputError(
                            f"{path}: translates {'-'.join(direction)}, as {names[direction]} does; leave one out"
                        )
                    names[direction] = path
                tags = {direction: translator.tags_into(direction[1]) for direction in translator.directions}
                models._thread.submit(models.add, translator, tags, max_waiting, observe).result()  # which asks it
            stack.pop_all()
        return models

    def add(
        self,
        translator: ServedTranslator,
        tags: Mapping[Direction, Sequence[int]],
        max_waiting: int,
        observe: Observe = lambda _: None,
    ) -> None:
        """Begin to take texts for a model; ``tags`` are what sources start with, by direction."""
        batcher = Batcher(translator, max_waiting, observe, self._thread if translator.is_pytorch else None)
        self._routes |= {direction: (batcher, own) for direction, own in tags.items()}

    @property
    def directions(self) -> list[Direction]:
        return list(self._routes)

    @property
    def num_waiting(self) -> int:
        """Characters that wait for all models."""
        return sum(batcher.num_waiting for batcher in self._batchers())

    @property
    def tells_attention(self) -> bool:
        """Whether any of the models tells what it looks at."""
        return any(batcher.tells_attention for batcher in self._batchers())

    def sources_into(self, target: str) -> list[str]:
        return [source for source, of in self._routes if of == target]

    def submit(
        self,
        texts: Sequence[str],
        source: str,
        target: str,
        align: Sequence[bool] | None = None,
        n_best: int | None = None,
    ) -> list[Future[Translation]]:
        """Put texts into the queue of the model that translates them; ``align`` and ``n_best`` as in `Batcher.submit`.

        Raises:
            RequestError: there is none, or its queue is full.
        """
        batcher, tags = self._route(source, target)
        return batcher.submit(texts, tags, align, n_best)

    def ask(self, method: str, text: str, source: str, target: str, times: int = 1, **options: Hashable) -> Future[Any]:
        """Put a text into the queue of the model that translates it, for another of its methods: see `Batcher.ask`.

        Raises:
            RequestError: as `submit`.
        """
        batcher, tags = self._route(source, target)
        return batcher.ask(method, text, times, tags=tuple(tags), **options)

    def tell_attention(
        self, work: Callable[[ServedTranslator, Sequence[int]], Answer], num_characters: int, source: str, target: str
    ) -> Future[Answer]:
        """Put into a model's queue what asks it for its attention, given the tags of its sources.

        Raises:
            RequestError: there is no such model, or it tells none, or its queue is full.
        """
        batcher, tags = self._route(source, target)
        if not batcher.tells_attention:
            raise RequestError(501, f"The model from {source} to {target} tells no attention; exports do not")
        return batcher.run(lambda translator: work(translator, tags), num_characters)

    def _route(self, source: str, target: str) -> tuple[Batcher, Sequence[int]]:
        if (source, target) in self._routes:
            return self._routes[source, target]
        for lang, known in ((target, {into for _, into in self._routes}), (source, {of for of, _ in self._routes})):
            if lang not in known:
                raise RequestError(400, f"{shown(lang)} is not supported; supported are {', '.join(sorted(known))}")
        raise RequestError(400, f"{target} is not available as a target language from {source}")

    def close(self) -> None:
        for batcher in self._batchers():
            batcher.close()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batchers(self) -> set[Batcher]:
        return {batcher for batcher, _ in self._routes.values()}


def shown(value: str) -> str:
    """A client's word as it stands in a refusal: not all of a long one."""
    return value if len(value) <= 40 else f"{value[:40]}…"


def language_name(code: str) -> str:
    """The English name of a language; its code where it has none."""
    try:
        language = langcodes.Language.get(code)
    except LanguageTagError:
        return code
    name = language.display_name()
    return code if name.startswith("Unknown language") else name

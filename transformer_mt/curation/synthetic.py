"""Sources whose other side a model makes: the sources of text of the target language in back-translation (Sennrich et
al., 2016), the targets of text of the source language in distillation (Kim and Rush, 2016).

Both sides become files in the cache, found again by the content of all that they depend on. The text is translated in
parts that are kept until the last one is there, so that a process that is killed loses one of them. What its
checksum shows to be damaged is translated anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from transformer_mt.checkpoints.manifest import verify
from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.config.data_sections import DataConfig, SourceConfig
from transformer_mt.config.loading import load_part, override_search
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.data.cache_keys import content_hash
from transformer_mt.data.checksums import damage, seal
from transformer_mt.data.readers.sources import source_files
from transformer_mt.data.store import SIDES
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.evaluation.output_checks import OutputStats
from transformer_mt.system.console import Tell
from transformer_mt.system.directories import build_once, remove_directory
from transformer_mt.system.lines import TOO_LONG, read_lines, write_lines
from transformer_mt.system.whole_files import replaced_file

# Parts begin at the same lines whatever has happened before, so that the lines translated together are the same too:
# in bfloat16 the last bits of a score, and with them a translation, depend on that.
PART_LINES = 8192

_NOT_IN_KEY = {"batch_tokens", "workers"}  # how a search is carried out, not what it finds


def synthesize(data: DataConfig, tell: Tell, parts: Sequence[str] = ("train", "valid", "test")) -> DataConfig:
    """The same section with the two files that a model has made in place of each source that asks for them.

    Those of the wanted ``parts`` are made where they are not there yet, or damaged, by one process at a time; ``tell``
    gets one line about each.

    Raises:
        InputError: no such text or model, a model of another direction, a search setting that cannot be.
        RunError: the cache cannot be written or read.
    """
    sections: dict[str, tuple[SourceConfig, ...]] = {part: getattr(data, part) for part in parts}
    # All of them are checked before the first is translated.
    works = {
        part: [None if source.model is None else _Work.of(data, source, source.model) for source in section]
        for part, section in sections.items()
    }
    for work in itertools.chain.from_iterable(works.values()):
        if work is not None:
            _make(work, tell)
    made = {
        part: tuple(
            source if work is None else work.made_source() for source, work in zip(section, works[part], strict=True)
        )
        for part, section in sections.items()
    }
    return data.model_copy(update=made)


@dataclass(frozen=True)
class _Work:
    """A source to be made: from what, by what, and where it goes."""

    source: SourceConfig
    texts: list[str]  # the files that there are
    given: str  # its side of the pairs
    made: str  # the other one
    models: list[Path]  # that translate together
    settings: dict[str, Any]  # that the first one's search does not have itself
    directory: Path

    @classmethod
    def of(cls, data: DataConfig, source: SourceConfig, named: str | tuple[str, ...]) -> Self:
        """Check what a source names; its directory is named by all that its files depend on."""
        texts = source_files(source, *data.languages(source))
        given, made = SIDES if source.kind == "distill" else reversed(SIDES)
        languages = dict(zip(SIDES, data.languages(source), strict=True))
        try:
            models = [resolve_model(Path(name)) for name in ((named,) if isinstance(named, str) else named)]
            manifests = [verify(model).model_dump(exclude_unset=True) for model in models]
            configs = [load_part(model / "config.yaml", DecodingConfig) for model in models]
            for directions in (config.data.directions() for config in configs):
                if (languages[given], languages[made]) not in directions:
                    raise InputError(
                        f"its model translates {', '.join(f'{src} to {tgt}' for src, tgt in directions)}, it needs one "
                        f"for {languages[given]} to {languages[made]}; name another, or set src_lang and tgt_lang"
                    )
            config = configs[0]
            settings = source.search
            if languages[made] != (config.search.tgt_lang or config.data.tgt_lang):  # one of several
                settings = {"tgt_lang": languages[made], **settings}
            search = override_search(config.search, settings=settings)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        cache = Path(data.cache_dir).expanduser()
        inputs = {
            "part_lines": PART_LINES,
            "text": content_hash(texts[0], cache) if len(texts) == 1 else [content_hash(text, cache) for text in texts],
            "made": made,
            "model": manifests[0] if len(manifests) == 1 else manifests,
            "search": search.model_dump(exclude=_NOT_IN_KEY),
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
        return cls(source, texts, given, made, models, settings, cache / "synthetic" / key)

    def made_source(self) -> SourceConfig:
        """An ordinary source of two files, with the name, weight, tag and languages of the one that asked for them."""
        files = {side: str(self.directory / side) for side in SIDES}
        return self.source.model_copy(
            update={"back_translate": None, "distill": None, "model": None, "search": {}, **files}
        )


def _make(work: _Work, tell: Tell) -> None:
    """Make the files of a source, unless they are there; they get their place when both are whole."""

    def build(directory: Path) -> None:
        try:
            if damage(directory) is not None:
                _translate(work, directory)
                _join(work, directory, tell)
        except InputError:  # other text or another model will have another place
            remove_directory(directory, work.directory)
            raise
        for path in [*directory.glob("*.part"), *directory.glob("*.seal")]:
            path.unlink()

    waiting = f"{work.source}: another process is translating it; waiting for that"
    build_once(work.directory, build, _damage, tell, what="the text that a model has made", waiting=waiting)


def _damage(target: Path) -> str | None:
    """What keeps both files from being used, if anything does. (Those of 0.1.0 have no checksums.)"""
    if (target / "meta.json").exists():
        return damage(target)
    return next((f"{side} is missing" for side in SIDES if not (target / side).is_file()), None)


def _translate(work: _Work, building: Path) -> None:
    """Write the pairs of each part of the text that are not there yet: a line and its translation by turns."""
    # Cleaning rejects pairs with a line that is too long.
    lines = itertools.chain.from_iterable(read_lines(text, TOO_LONG) for text in work.texts)
    first_model, *others = work.models
    with (
        contextlib.closing(Translator.load(first_model, ensemble=others, settings=work.settings)) as translator,
        tqdm(desc=f"translating {work.texts[0]}", unit=" lines", unit_scale=True, disable=None, leave=False) as bar,
    ):

        def pairs(part: Iterable[str]) -> Iterator[str]:
            for translation in translator.stream(part):
                bar.update()
                yield from (translation.source, translation.text)

        for number in itertools.count():
            first = next(lines, None)
            if first is None:
                return
            part = itertools.chain([first], itertools.islice(lines, PART_LINES - 1))
            path = building / f"{number:08d}.part"
            if damage(building, f"{number:08d}.seal") is None:
                bar.update(sum(1 for _ in part))
            else:
                write_lines(path, pairs(part))
                seal(building, f"{number:08d}.seal", path.name)


def _join(work: _Work, building: Path, tell: Tell) -> None:
    """Write both sides of all parts, and say what the translations look like."""
    stats = OutputStats()
    with replaced_file(building / work.given) as given, replaced_file(building / work.made) as made:
        for path in sorted(building.glob("*.part")):
            lines = read_lines(path)
            for line, translation in zip(lines, lines, strict=True):
                given.write(f"{line}\n".encode())
                made.write(f"{translation}\n".encode())
                stats.count(line, translation, 0, 0)  # tokens are of no interest here
        if stats.num_translations == 0:
            raise InputError(f"{work.texts[0]}: no text in it to translate; check data.train")
    seal(building, "meta.json", *SIDES)
    tell(
        f"{work.source}: {stats.num_translations:,} lines translated (blank ones left out: {stats.num_blank:,}), "
        f"{stats.num_empty:,} empty, {stats.num_looping:,} looping, {stats.num_copied:,} copied from the source"
    )

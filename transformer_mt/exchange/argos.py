"""A model as a package that Argos Translate (from 1.11 on) installs: one file, a ZIP archive.

In it is one folder: CTranslate2's directory ``model``, the SentencePiece model, a sentence splitter in ``minisbd``, and
``metadata.json``, which names the languages. Without a splitter in the package Argos Translate fetches one.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from pathlib import Path

from transformer_mt.checkpoints.exports import MANIFEST, write_list
from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.errors import InputError
from transformer_mt.exchange.ctranslate2 import write_ctranslate2
from transformer_mt.exchange.from_marian import UNDETERMINED
from transformer_mt.system.directories import scratch_directory
from transformer_mt.system.whole_files import check_writable, replaced_file, write_error

SUFFIX = ".argosmodel"
_FIRST_RELEASE = "1.11"  # that has MiniSBD
_LONGEST_SOURCE = 1024  # pieces to which CTranslate2 cuts a sentence, unless it is told another limit
_CODE = re.compile("[A-Za-z0-9_-]+")  # it is a part of the folder's name
_MOST_LIST_BYTES = 1 << 20


def export_argos(loaded: LoadedModel, output: Path, quantization: str) -> None:
    """Write the package ``output``, whole or not at all; an earlier one is replaced.

    Raises:
        InputError: ONNX is not installed; the format cannot have the model; or an ``output`` that must not be
            replaced; or as `write_ctranslate2`.
        RunError: as `write_ctranslate2`; or the place cannot be written or is full.
    """
    _check_replaceable(output)
    _check_expressible(loaded)
    try:
        from transformer_mt.exchange.sentence_splitter import sentence_splitter
    except ImportError as error:
        raise InputError(f"export: {error.name} is not installed; pip install 'transformer-mt[export,onnx]'") from None
    [(src, tgt)] = loaded.config.data.directions()
    metadata = {
        "package_version": "1.0",
        "argos_version": _FIRST_RELEASE,
        **{"type": "translate", "from_code": src, "from_name": src, "to_code": tgt, "to_name": tgt},
    }
    try:
        with scratch_directory(Path(os.path.realpath(output))) as scratch:
            folder = scratch / f"transformer_mt-{src}_{tgt}"
            for name in ("model", "minisbd"):
                (folder / name).mkdir(parents=True)
            write_ctranslate2(loaded.model, loaded.tokenizers, folder / "model", quantization)
            (folder / "minisbd" / "patterns.onnx").write_bytes(sentence_splitter())
            (folder / "sentencepiece.model").write_bytes(loaded.tokenizers.src.model)
            (folder / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
            write_list(folder, {"format": "argos", "quantization": quantization})
            _check_replaceable(output)
            _pack(folder, output)
    except OSError as error:
        raise write_error(output, error) from error


def _check_expressible(loaded: LoadedModel) -> None:
    problem = None
    directions = loaded.config.data.directions()
    if not loaded.tokenizers.is_shared:
        problem = "the model has two tokenizers: an Argos package has one for both languages"
    elif loaded.tokenizers.has_languages:
        problem = "the model has several target languages: an Argos package has no place for the tag of one"
    elif len(directions) > 1:
        several = ", ".join(src for src, _ in directions)
        problem = f"the model has several source languages ({several}): an Argos package names one"
    elif loaded.config.search.tag is not None:
        problem = f"search.tag {loaded.config.search.tag}: an Argos package has no place for the tag of a domain"
    elif unusable := [code for code in directions[0] if code == UNDETERMINED or not _CODE.fullmatch(code)]:
        problem = f"the language {unusable[0]!r} is no code as en or pt_BR: an Argos package is found by two of them"
    elif loaded.config.model.positions == "learned" and loaded.config.model.max_positions < _LONGEST_SOURCE:
        problem = (
            f"model.max_positions {loaded.config.model.max_positions}: Argos Translate gives sentences of up to "
            f"{_LONGEST_SOURCE:,} pieces"
        )
    if problem is not None:
        raise InputError(f"{problem}; export with --format ctranslate2 or onnx")


def _check_replaceable(output: Path) -> None:
    if output.suffix != SUFFIX:
        raise InputError(f"{output}: Argos packages are named *{SUFFIX}; choose another --output")
    check_writable(output)
    if os.path.lexists(output) and not _is_package(output):
        raise InputError(
            f"{output}: exists and is something else than an earlier export; remove it, or choose another --output"
        )


def _is_package(path: Path) -> bool:
    """Whether a file is an export of ours, by the list in its folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {*archive.namelist()}
            folder = min(names).partition("/")[0]
            if archive.getinfo(f"{folder}/{MANIFEST}").file_size > _MOST_LIST_BYTES:
                return False
            facts = json.loads(archive.read(f"{folder}/{MANIFEST}"))
        listed = {f"{folder}/{name}" for name in (*facts["files"], MANIFEST)}
        return "transformer_mt" in facts and facts["format"] == "argos" and names == listed
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, LookupError, TypeError, RuntimeError, EOFError):
        return False


def _pack(folder: Path, output: Path) -> None:
    """Put a folder into an archive, without the times of its files: the same content gives the same bytes."""
    with replaced_file(output) as file, zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder.parent).as_posix()
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)

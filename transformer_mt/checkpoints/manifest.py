"""``manifest.json``: what belongs to a model directory, with size and SHA-256, and its own hash at the end.

The directory may come from a stranger, whose hashes are as good as ours. What is read of it are plain files of sane
sizes: nothing in it blocks, leads elsewhere or takes more memory than there is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from transformer_mt.config.loading import MAX_MODEL_BYTES
from transformer_mt.config.section import PositiveInt, Size
from transformer_mt.errors import InputError
from transformer_mt.system.whole_files import open_plain, read_plain

FORMAT = 2
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
CONFIG = "config.yaml"

# What files may have at most, far above what any model needs.
MOST_BYTES = 1 << 26
_MOST_BYTES_OF = {MANIFEST: 1 << 20, CONFIG: MAX_MODEL_BYTES}


class FileFacts(BaseModel, strict=True):
    """What a list says of a file."""

    bytes: Size
    sha256: str


# No path to another place, and nothing that a file system or a terminal could stumble over.
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]


class Manifest(BaseModel, strict=True):
    """What ``manifest.json`` holds besides its own hash."""

    format: int
    longest_src_tokens: Annotated[PositiveInt, Field(lt=1 << 31)]
    tags: list[str] | None = None  # what sources may start with; of 0.1.0: not stated
    files: Annotated[dict[_Name, FileFacts], Field(max_length=20)]


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, which end in the hash of the rest."""
    seal = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": seal}, indent=1).encode()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model directory, whole and well-formed.

    Raises:
        InputError: there is none, or it is damaged.
    """
    damaged = InputError(f"{directory / MANIFEST}: damaged; use another checkpoint")
    try:
        content = read_plain(directory / MANIFEST, _MOST_BYTES_OF[MANIFEST])
        stated = json.loads(content)
        version, _ = stated["format"], stated.pop("sha256", None)
    except (FileNotFoundError, NotADirectoryError):
        lacking = MANIFEST if os.path.exists(directory / MODEL) else MODEL
        raise InputError(
            f"{directory}: not a model (no {lacking}); name a run, a checkpoint or an averaged model"
        ) from None
    except OSError as error:
        raise unreadable(directory / MANIFEST, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if version != FORMAT:
        raise InputError(
            f"{directory / MANIFEST}: format {version!r:.20}, this version reads {FORMAT}; use the version that "
            "wrote it"
        )
    if content != sealed(stated):
        raise damaged
    try:
        manifest = Manifest.model_validate(stated)
    except ValidationError:
        raise damaged from None
    if not {MODEL, CONFIG} <= manifest.files.keys():
        raise damaged
    return manifest


def verify(directory: Path, *, only_sizes: bool = False) -> Manifest:
    """Check every file of a model directory against its manifest, which is returned.

    Args:
        only_sizes: do not read the files, whose hashes would tell a changed byte.

    Raises:
        InputError: no manifest, or a file that is missing, cut short or changed.
    """
    manifest = read_manifest(directory)
    _check_sizes(directory, manifest.files)
    for name, facts in manifest.files.items():
        check_file(directory / name, facts, "use another checkpoint", only_sizes=only_sizes)
    return manifest


def check_file(path: Path, facts: FileFacts, remedy: str, *, only_sizes: bool = False) -> None:
    """Compare a file with its size and, unless ``only_sizes``, with its SHA-256; ``remedy`` ends the line of an error.

    Raises:
        InputError: it is missing, cut short, changed, or no plain file.
    """
    num_bytes = facts.bytes
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if size == num_bytes and not only_sizes else ""
    except FileNotFoundError:
        raise InputError(f"{path}: missing, the model is not complete; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if size != num_bytes:
        raise InputError(f"{path}: cut short or changed ({size:,} bytes, expected {num_bytes:,}); {remedy}")
    if not only_sizes and sha256 != facts.sha256:
        raise InputError(f"{path}: damaged (its SHA-256 is not the one it was written with); {remedy}")


def _check_sizes(directory: Path, files: Mapping[str, FileFacts]) -> None:
    """Refuse what cannot be used before it is read: a file with holes may claim any size."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Two moments and perhaps the weights themselves, for each weight.
    most = _MOST_BYTES_OF | {MODEL: memory, OPTIMIZER: 4 * files[MODEL].bytes + (1 << 20)}
    for name, facts in files.items():
        if facts.bytes > (limit := most.get(name, MOST_BYTES)):
            remedy = "use a machine with more memory" if name == MODEL else "use another checkpoint"
            raise InputError(f"{directory / name}: {facts.bytes:,} bytes, more than the {limit:,} possible; {remedy}")


def unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror}); use another checkpoint")

"""Configuration files: read strictly from YAML 1.2, overridden from the command line, checked, and printed.

A key that is not known is refused with its nearest neighbour, and all problems of a file are reported at once.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from transformer_mt.config.data_sections import DataConfig, SourceConfig, StageConfig
from transformer_mt.config.section import KEYS_ONLY, Section
from transformer_mt.config.sections import Config, SearchConfig, TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.system.console import shortened
from transformer_mt.system.lines import read_lines
from transformer_mt.system.whole_files import read_plain

AnySection = TypeVar("AnySection", bound=Section)

_MAX_VALUES = 100_000
MAX_MODEL_BYTES = 1 << 20  # of a configuration that came with a model: YAML takes a minute and more for a megabyte


def load_config(path: str | Path, overrides: Iterable[str] = (), *, of_model: bool = False) -> Config:
    """Read a configuration file, apply ``key.path=value`` overrides, expand ``${NAME:-default}``, and check all of it.

    Args:
        of_model: it lies in a checkpoint, which others may have made: nothing is taken from the environment. (All that
            continuing a run takes is read; for using a model there is `load_part`.)

    Raises:
        InputError: one line that holds every problem found, each with its key and a remedy.
    """
    tree = _tree_of(_text_of_model(Path(path)) if of_model else "\n".join(read_lines(path)), path)
    for override in overrides:
        _apply_override(tree, override)
    return validate(tree, str(path), of_model=of_model)


def load_part(path: Path, kind: type[AnySection]) -> AnySection:
    """Read what using a model takes from its ``config.yaml``; nothing is taken from the environment.

    Args:
        kind: one of `parts`, whose keys are read. What else the file has may be wrong.

    Raises:
        InputError: one line that holds every problem found.
    """
    tree = _tree_of(_text_of_model(path), path)
    return _checked(kind, _expand(tree, from_environment=False), (), f"{path}: ", of_model=True)


def _tree_of(text: str, path: str | Path) -> dict[str, Any]:
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not a configuration (found {_found(tree)}, expected sections such as data:, model:)")
    return tree


def _text_of_model(path: Path) -> str:
    try:
        return read_plain(path, MAX_MODEL_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; use another model") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); use another model") from None


def validate(tree: dict[str, Any], origin: str, *, of_model: bool = False) -> Config:
    """Build a `Config` from plain data; ``origin`` names where it is from in the refusal."""
    return _checked(Config, _expand(tree, from_environment=not of_model), (), f"{origin}: ", of_model)


def _checked(
    kind: type[AnySection], values: Any, at: tuple[str, ...], origin: str, of_model: bool = False
) -> AnySection:
    """Build a section, or refuse it with all that is wrong; ``at`` is its place in the configuration."""
    problems: list[str] = []
    wrong: list[str] = []
    section: AnySection | None = None
    try:
        section = kind.model_validate(values, context=KEYS_ONLY)
    except ValidationError as error:
        errors = [*_one_a_place(error.errors(include_url=False), values)]
        for problem in errors:
            problems.append(_describe({**problem, "loc": (*at, *problem["loc"])}))
            if problem["type"] != "extra_forbidden":
                wrong.append(_dotted(at, problem["loc"]))
        # Without what is wrong by itself, the rest shows what is impossible together.
        rest = _without(values, {problem["loc"] for problem in errors})
        if kind is Config and isinstance(rest.setdefault("data", {}), dict):
            rest["data"] = {**_STAND_IN, **rest["data"]}
        with contextlib.suppress(ValidationError):
            section = kind.model_validate(rest, context=KEYS_ONLY)
    for path, conflict in _all_conflicts(section, at) if section is not None else ():
        if of_model and (*path, conflict)[0].split(".")[0] != "model":
            continue  # how it was trained is settled; what a search would refuse, `override_search` does
        named = [_dotted(path, [word.rstrip(".")]) for word in re.findall(r"[\w.]+", conflict)]
        if not any(name == key or name.startswith(f"{key}.") for name in named for key in wrong):
            problems.append(f"{'.'.join(path)}: {conflict}" if path else conflict)
    if section is None or problems:
        count = "" if len(problems) == 1 else f"{len(problems)} problems: "
        raise InputError(f"{origin}{count}{'; '.join(problems)}")
    return section


# For the keys that have no default, where they are missing and the others are checked for conflicts.
_STAND_IN: dict[str, Any] = {"src_lang": "", "tgt_lang": "", "train": [{"src": "", "tgt": ""}]}


def _all_conflicts(section: Section, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, conflict) in the sections below, then in this one."""
    for key, value in section:
        items = [((*at, key), value)]
        if isinstance(value, tuple):
            items = [((*at, key, str(number)), item) for number, item in enumerate(value)]
        for path, item in items:
            if isinstance(item, Section):
                yield from _all_conflicts(item, path)
    yield from ((at, conflict) for conflict in section.conflicts())


def _without(value: Any, paths: set[tuple[str | int, ...]], at: tuple[str | int, ...] = ()) -> Any:
    """Nested values less those at some paths."""
    if isinstance(value, dict):
        return {k: _without(v, paths, (*at, k)) for k, v in value.items() if (*at, k) not in paths}
    if isinstance(value, list):
        return [_without(v, paths, (*at, i)) for i, v in enumerate(value) if (*at, i) not in paths]
    return value


def _dotted(at: Sequence[str], path: Sequence[str | int]) -> str:
    """The place of a key in words; an item of a list of values stands for the whole list."""
    keys = [*at, *map(str, path)]
    if path and isinstance(path[-1], int):
        keys.pop()
    return ".".join(keys)


# The search keys that only one way of searching looks at.
_OF_SAMPLING, _OF_BEAMS = {"temperature", "top_k", "top_p", "seed"}, {"beam_size", "stop"}


def override_search(
    search: SearchConfig, overrides: Iterable[str] = (), settings: Mapping[str, Any] | None = None
) -> SearchConfig:
    """Return the search section of a model with the values of ``settings``, then ``search.key=value`` overrides.

    Raises:
        InputError: a key or value that cannot be, or one that has no effect in this way of searching.
    """
    settings = settings or {}
    for override in (overrides := list(overrides)):
        if not override.startswith("search."):
            raise InputError(f"--set {override}: only search.* keys can be set for a trained model")
    section = _validate_section("search", SearchConfig, search.model_dump() | dict(settings), overrides)
    asked = {key: f"search.{key}={value}" for key, value in settings.items()}
    asked |= {override.partition("=")[0].removeprefix("search."): f"--set {override}" for override in overrides}
    idle = _OF_BEAMS if section.sampling else _OF_SAMPLING
    for key, what in asked.items():
        if key in idle:
            remedy = "without" if section.sampling else "with"
            raise InputError(f"{what}: has an effect only {remedy} search.sampling=true; remove it")
    return section


# The tokenizer's keys that say how a run uses one.
OF_RUNS = {"model", "tgt_model", "shared", "bpe_dropout", "unigram_alpha", "add_pieces"}


def tokenizer_config(values: dict[str, Any], overrides: Iterable[str]) -> TokenizerConfig:
    """What to train a tokenizer with, from plain values and ``tokenizer.key=value`` overrides."""
    for override in (overrides := list(overrides)):
        key = override.partition("=")[0]
        if not key.startswith("tokenizer."):
            raise InputError(f"--set {override}: only tokenizer.* keys can be set here")
        if key.removeprefix("tokenizer.") in OF_RUNS:
            raise InputError(f"--set {override}: is for `tmt train`, and has no effect on the tokenizer; remove it")
    return _validate_section("tokenizer", TokenizerConfig, values, overrides)


def _validate_section(
    name: str, kind: type[AnySection], values: dict[str, Any], overrides: Iterable[str]
) -> AnySection:
    tree: dict[str, Any] = {name: values}
    for override in overrides:
        _apply_override(tree, override)
    return _checked(kind, tree[name], (name,), "")


def to_yaml(config: Section) -> str:
    """The resolved configuration, or a part of it: every key with the value in force."""
    return as_yaml(config.model_dump(mode="json"))


def as_yaml(tree: dict[str, Any]) -> str:
    """Plain values as a configuration that reads as just these."""
    out = io.StringIO()
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.dump(_map_strings(_yaml_text, tree), out)
    return out.getvalue()


def on_one_line(value: Any) -> str:
    """A value of a configuration as it is written behind its key, for a message."""
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None, which sorts keys
    yaml.width = sys.maxsize
    yaml.dump(value, out)
    return out.getvalue().removesuffix("...\n").strip()


def _yaml_text(text: str) -> str:
    text = text.replace("${", "$${")  # else it would be taken from the environment
    # Left to itself the library breaks lines at NEL and U+2028, which then read as spaces.
    return text if text.isprintable() else DoubleQuotedScalarString(text)


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        tree = YAML(typ="safe", pure=True).load(text)
        _check_size(tree)
        return tree
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{origin}{line}: not valid YAML ({error.problem}); check indentation and quotes") from None
    except Exception as error:  # whatever its constructors raise: `!!bool 7` a KeyError, deep nesting a RecursionError
        raise InputError(f"{origin}: not valid YAML ({' '.join(str(error).split())}); write plain values") from None


def _check_size(tree: Any) -> None:
    """Refuse lists and sections that aliases repeat without end, or multiply beyond all bounds."""
    waiting, count = [tree], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MAX_VALUES:
            raise ValueError(f"its aliases make more than {_MAX_VALUES:,} values of it")
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected key.path=value, for example --set train.max_steps=2000")
    node = tree
    for i, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {'.'.join(keys[: i + 1])} is {_found(child)}, not a section")
        node = child
    node[keys[-1]] = _parse_yaml(text, f"--set {path}")


def _expand(value: Any, from_environment: bool) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` by the environment's value, if wanted, and ``$${`` by ``${``.

    Raises:
        InputError: anything else with ``${``, if wanted.
    """

    def text_of(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        return _environment_value(match) if from_environment else match[0]

    return _map_strings(lambda text: re.sub(r"\$\$\{|\$\{(\w+)(?::-([^}]*))?\}|\$\{[^}]*\}?", text_of, text), value)


def _map_strings(change: Callable[[str], str], value: Any) -> Any:
    """Nested values with every string (but no key) changed."""
    if isinstance(value, dict):
        return {key: _map_strings(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(change, item) for item in value]
    return change(value) if isinstance(value, str) else value


def _environment_value(match: re.Match[str]) -> str:
    name, default = match.groups()
    if name is None:
        raise InputError(f"{match[0]}: write ${{NAME}} or ${{NAME:-default}}, or $${{ for ${{ itself")
    if default is not None and "${" in default:
        raise InputError(f"{match[0]}}}: a default has no ${{ of its own; write the value")
    value = os.environ.get(name) or default
    if value is None:
        raise InputError(f"${{{name}}} is used in the configuration but not set, or empty; export {name}=...")
    return value


def _one_a_place(errors: Iterable[Any], values: Any) -> Iterator[Any]:
    """Yield one problem for each key or item: a value that may be of several types has one for each of these."""
    by_place: dict[tuple[str | int, ...], list[Any]] = {}
    for error in errors:
        node, place = values, error["loc"]
        for depth, key in enumerate(place):
            is_there = (
                key in node if isinstance(node, dict) else isinstance(node, list | tuple) and isinstance(key, int)
            )
            if not is_there and error["type"] != "missing":
                place = place[:depth]  # what follows is the name of a type
                break
            node = node[key] if is_there else None
        by_place.setdefault(place, []).append(error)
    for place, (first, *others) in by_place.items():
        kinds = dict.fromkeys(error["msg"].removeprefix("Input should be ") for error in (first, *others))
        message = {"type": "union", "msg": f"Input should be {' or '.join(kinds)}"} if others else {}
        yield {**first, **message, "loc": place}


def _describe(error: Any) -> str:
    """One problem in one phrase: key, what was found, what to do."""
    keys = error["loc"]
    key = ".".join(str(key) for key in keys) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key}: missing; add it"
    if error["type"] == "value_error":
        return f"{key}: {message}"
    message = _PLAIN.get(error["type"], message[0].lower() + message[1:])
    return f"{key}: {message}, found {_found(error['input'])}"


# What pydantic says in terms of Python.
_PLAIN = {"model_type": "should be a section of keys", "tuple_type": "should be a list"}


# The lists of sections, all in `data`.
_LISTS: dict[str | int, type[Section]] = dict(
    train=SourceConfig, valid=SourceConfig, test=SourceConfig, stages=StageConfig
)


def _known_keys(path: Sequence[str | int]) -> list[str]:
    node: Any = Config
    for key in path:
        if key in _LISTS and node is DataConfig:
            node = _LISTS[key]
        elif not isinstance(key, int):
            node = node.model_fields[key].annotation
    return list(node.model_fields)


def _found(value: Any) -> str:
    """What a YAML value is, for a message; a scalar is best shown itself, a whole text only its beginning."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(shortened(value, 80))
    return "a section" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else repr(value)

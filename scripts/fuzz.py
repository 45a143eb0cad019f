"""Feed bad input to everything that reads. Each case must end in success or in one clear line with exit status 2.

    python scripts/fuzz.py [--count 10000] [--seed 1] [--only N] [--keep DIR]

What is damaged: files of lines, sources of sentence pairs, configurations, model directories, prepared corpora, runs
to be reported on, requests to a server. A case depends on the seed and its number alone; ``--only N`` repeats one and
shows what it says. A finding is a traceback, a crash of the interpreter, another status, a second or an empty line, a
very long one, a file left behind, equal line counts broken, a hang, or memory without bounds. At the end stands a
table; exit status 1: there were findings.

Importing PyTorch takes seconds, so one process imports it and forks for a hundred cases each: a crash is survived.
"""

from __future__ import annotations

import argparse
import asyncio
import bz2
import copy
import faulthandler
import gzip
import hashlib
import itertools
import json
import lzma
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO
from unittest.mock import patch

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")  # one thread, so that it can fork

import matplotlib.figure  # noqa: F401 (imported once, here, and not by each batch)
import numpy as np
import torch._dynamo  # noqa: F401 (by the first optimizer)

import transformer_mt.training.loop  # noqa: F401
from transformer_mt.checkpoints import model_directory, run_directory, saver
from transformer_mt.checkpoints.manifest import sealed
from transformer_mt.cli import main as cli
from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.config.loading import load_config, to_yaml, validate
from transformer_mt.config.sections import OptimConfig
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.store import SIDES, IdStore
from transformer_mt.errors import InputError
from transformer_mt.evaluation import significance
from transformer_mt.server.app import Interface, Settings
from transformer_mt.server.metrics import Metrics
from transformer_mt.server.models import Models
from transformer_mt.toy_corpus import grammar
from transformer_mt.training.optim import adam

significance.NUM_BOOTSTRAP, significance.NUM_RANDOMISATIONS = 20, 64  # not the seconds that sure p values take

BATCH = 100
PATIENCE_SECONDS = 20
MEMORY_BYTES = 4 << 30  # of address space, besides what is in use; stacks of threads count in full
LONGEST_LINE = 2000
WARNINGS = ("averaging ", "leaving out ", "line ", "warning: ")  # what may stand before the reason
SPOILED = "the model gives NaN or zero probability"  # of weights that no file's form forbids: the only status 1
MARK = "@@"  # what stands in JSON for a fragment that is put there as text


@dataclass(frozen=True)
class Base:
    """What is damaged: a directory with a tiny trained model, its prepared corpus and sources of every kind."""

    place: Path

    @property
    def run(self) -> Path:
        return self.place / "run"

    @property
    def store(self) -> Path:
        return next((self.place / "cache").glob("*/meta.json")).parent

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def config(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(self.read("config.yaml"))
        return tree


class Case(NamedTuple):
    """Arguments of ``tmt``; or a function that reads, whose refusals are told as those of a command."""

    what: str
    arguments: tuple[object, ...] = ()
    stdin: bytes = b""
    reader: Callable[[], object] | None = None
    num_lines: int | None = None  # that stdout must have


class Result(NamedTuple):
    number: int
    what: str
    status: int | None
    problem: str  # empty: none
    said: str


# ---------------------------------------------------------------- damage


def damage(draw: random.Random, data: bytes) -> bytes:
    """Some bytes of a file cut off, changed, lost, repeated or inserted, more often near its ends."""
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randint(0, draw.choice([len(data), min(len(data), 200)]))
        at = draw.choice([at, at, len(data) - at])
        size = draw.choice([1, 2, 4, 8, 100])
        some = draw.choice([draw.randbytes(size), b"\xff" * size, b"\x00" * size, b"\x7f" + b"\xff" * (size - 1)])
        match draw.randrange(6):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + some + data[at + size :]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + data[at : at + size] + data[at:]
            case 4:
                data = data[:at] + some + data[at:]
            case 5 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    return data


def mutated(draw: random.Random, tree: Any, fragments: list[str]) -> str:
    """JSON of a tree with one place changed: another value (a fragment of text), or the key removed, renamed, added,
    given twice or moved."""
    tree = {"root": copy.deepcopy(tree)}
    places = list(_places(tree))
    holder, key = draw.choice(places)
    fragment = draw.choice(fragments)
    action = draw.randrange(8)
    if action == 0 and not isinstance(holder, list):
        holder[MARK], fragment = holder[key], json.dumps(key)
    elif action == 1:
        del holder[key]
    elif action == 2 and not isinstance(holder, list):
        new = draw.choice([f"{key}s", key[1:], key.upper(), "\u2028", "k" * 3000, "", "a.b", "a\nb"])
        holder[new] = holder.pop(key)
    elif action == 3:
        moved = draw.choice(places)[0]
        value = copy.deepcopy(holder[key])
        if isinstance(moved, list):
            moved.append(value)
        else:
            moved["moved"] = value
    else:
        holder[key] = MARK
    text = json.dumps(tree.get("root", MARK), ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
    return text.replace(f'"{MARK}"', fragment)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


JSON_VALUES = [
    *"null true -1 0 1 2 3.5 1e999 NaN -Infinity 4294967296 9223372036854775807 18446744073709551616".split(),  # noqa: SIM905
    *r'{} [] [[]] "" "x" "\ud800" "\u0000" "a\nb" "\u2028" {"a":1} ["a"] [1,2] ../../x 00 +1 .5'.split(),  # noqa: SIM905
    *("'x'", "9" * 5000, "9" * 300, '"' + "x" * 3000 + '"'),
    *("[" * 50000, "[" * 900 + "]" * 900, '{"a":' * 3000 + "1" + "}" * 3000),
]
YAML_VALUES = [
    *JSON_VALUES,
    *".nan .inf -.inf 1e-400 0x7fffffffffff 0o17 017 0b1 1_000 1:30 yes no ~ on = << &a *a @x `x` %x".split(),  # noqa: SIM905
    *("2024-01-01", "2024-99-99", "2024-01-01T00:00:00Z", "2001-12-14t21:59:43.10-05:00", "1e1000000000"),
    *("!!python/object:os.system ls", "!!binary 'aGk='", "!!binary '*'", "!!set {a, b}", "!!omap [a: 1]", "!!int 'x'"),
    *("!!float abc", "!!timestamp x", "!!bool 7", "!!null x", "!!str 1", "!!seq {}", "!!map []", "!unknown 1"),
    *("&a [*a]", "&a {a: *a}", "{<<: 1}", "{<<: [1]}", "{[1]: 2}", "{{a: 1}: 2}", "{1: 2}", "{null: 1}", "{true: x}"),
    *('"${HOME}"', '"${NOT_SET}"', '"${X:-}"', '"${X:-a}${"', r'"\U00110000"', r'"\xff"', "'a\n\n b'", "|\n x", ">\n"),
    *("[a, b", "{a: 1, a: 2}", "{1.5: x}", "? x", "- 1", "a: b: c", "\t1", "#", "...", "---\nb: 1"),
    *("\x07", "\x85", "\ufeff", "\ufffe", "\U0001f600", "'\u2028'"),
]
BAD_YAML = [
    "a: &a [x,x,x,x,x,x,x,x,x]\n"  # "billion laughs"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    *("[" * 3000, "- " * 3000, "{a: " * 500 + "1" + "}" * 500, "a:\n\tb: 1", "a: 1\n---\nb: 2", "%YAML 9.9\n---\n{}"),
    *("%YAML 1.1\n---\ndata: {src_lang: no}", "%TAG ! x\n---\n{}", "data: !!python/object/apply:os.getcwd []"),
    *("", "\n\n", "#", "null", "1", "[]", "- data", "data", "data:", "--- >\n x", "&a *a", "<<: *a", "<<: {data: 1}"),
    *("? data\n", "? [a]\n: 1"),
]
BAD_BYTES = [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x80", b"\xfe\xff"]
PARTS = [
    *(b"the dog", b"a b c", b"", b" ", b"\t", b"\r", b"\r\r", b"\x00", b"\x0b", b"\x0c", b"\x1b[31m", b"\xef\xbb\xbf"),
    *(b"\xe2\x96\x81the", b"<0x0A>", b"<0xFF>", b"</s>", b"<unk>", b"<pad>", b"<2de>", b"|||", b"x" * 500, b"." * 60),
    *(text.encode() for text in ("e\u0301\u0301\u0301", "\u2028", "\x85", "\u202e", "\ufffe", "\U0010ffff", "\u200b")),
    *("한국어。".encode(), "Straße".encode(), "\ufdfa".encode() * 20, b"? ! . " * 20),
]


def bad_text(draw: random.Random, longest: int = 200_000) -> bytes:
    """Lines that are right, odd, or no UTF-8; sometimes very long ones or none."""
    if draw.random() < 0.05:
        return draw.choice([b"", b"\n", b"\xef\xbb\xbf", b"\xff\xfe", draw.randbytes(500), b"\n" * 100, b"\x00" * 100])
    parts = [*PARTS, b" "] + (BAD_BYTES if draw.random() < 0.3 else [])
    lines = [b" ".join(draw.choices(parts, k=draw.choice([0, 1, 1, 3, 8]))) for _ in range(draw.choice([1, 3, 10]))]
    if draw.random() < 0.1:
        long = draw.choice([b"x", b"ab ", b"\xe2\x96\x81"]) * draw.choice([9, longest // 3])
        lines.insert(draw.randint(0, len(lines)), long)
    text = draw.choice([b"\n", b"\n", b"\n", b"\r\n"]).join(lines) + draw.choice([b"\n", b"\n", b""])
    return draw.choice([b"", b"", b"", b"\xef\xbb\xbf"]) + text


def packed(draw: random.Random, place: Path, name: str, data: bytes) -> Path:
    """Write a file as it is or compressed, the latter often damaged, twice over or with something else in it."""
    suffix = draw.choice(["", "", "", ".gz", ".zst", ".xz", ".bz2"])
    content = data if draw.random() < 0.1 else _compressed(data, suffix)
    if suffix:
        match draw.randrange(6):
            case 0:
                content = content[: draw.randint(0, len(content))]
            case 1:
                content = damage(draw, content)
            case 2:
                content += draw.choice([content, b"\x00" * 20, b"garbage", content[:10], _compressed(b"", suffix)])
    return write(place / f"{name}{suffix}", content)


def _compressed(data: bytes, suffix: str) -> bytes:
    match suffix:
        case ".gz":
            return gzip.compress(data, mtime=0)
        case ".xz":
            return lzma.compress(data)
        case ".bz2":
            return bz2.compress(data)
        case ".zst":
            import pyarrow as pa

            out = pa.BufferOutputStream()
            with pa.CompressedOutputStream(out, "zstd") as file:
                file.write(data)
            return bytes(out.getvalue())
        case _:
            return data


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


def num_lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


# ---------------------------------------------------------------- the kinds of cases


def lines_case(draw: random.Random, place: Path, base: Base) -> Case:
    what = draw.choice(["encode", "decode", "train", "eval", "eval", "compare", "translate", "translate", "score"])
    text = bad_text(draw)
    options: tuple[object, ...]
    match what:
        case "encode" | "decode":
            model = base.place / "tok.model"
            return Case(what, ("tokenizer", what, "--model", model), text, num_lines=num_lines(text))
        case "train":
            path = packed(draw, place, "text", text + draw.choice([b"", base.read("train.tsv")]))
            options = ("--vocab-size", draw.choice([8, 270, 300, 1000]), "--type", draw.choice(["bpe", "unigram"]))
            files = ("--input", path, "--output", place / "out" / "tok.model")
            return Case(what, ("tokenizer", "train", *files, *options))
        case "translate":
            text = bad_text(draw, longest=3000)
            path = packed(draw, place, "text", text)
            options = ("--set", "search.workers=1", *draw.choice([(), ("--json",), ("--n-best", 2), ("--stats",)]))
            if draw.random() < 0.2:
                options += ("--prefix", packed(draw, place, "prefix", draw.choice([text, bad_text(draw, longest=100)])))
            if path.suffix or draw.random() < 0.5:
                output = place / "out" / draw.choice(["out.txt", "out.gz", "out.zst", "out.xz", "out.bz2"])
                return Case(what, ("translate", base.run, "--input", path, "--output", output, *options))
            lines = None if "--n-best" in options else num_lines(text)
            return Case(what, ("translate", base.run, *options), text, num_lines=lines)
        case _:
            short = bad_text(draw, longest=3000)
            first = packed(draw, place, "first", short)
            second = packed(draw, place, "second", draw.choice([short, bad_text(draw, longest=3000)]))
            if what == "score":
                return Case(what, ("score", base.run, "--src", first, "--tgt", second))
            if what == "compare":
                ref = packed(draw, place, "ref", draw.choice([short, short, bad_text(draw, longest=3000)]))
                options = draw.choice([(), ("--json",), ("--train", second), ("--src", second), ("--src", ref)])
                options += draw.choice([(), ("--output", place / "out" / "page.html")])
                return Case(what, ("compare", first, draw.choice([second, base.run]), "--ref", ref, *options))
            options = draw.choice([(), ("--json",), ("--sentence",), ("--tokenize", "char"), ("--lowercase",)])
            metrics = draw.choice([("--metrics", "bleu,chrf,multi_bleu"), ("--papers", "--tgt-lang", "de")])
            return Case(what, ("eval", "--hyp", first, "--ref", second, *metrics, *options))


XML_PARTS = [
    *(b"&lol;", b"&#0;", b"&#xD800;", b"&#10;", b"&", b"<", b"<a>", b"<x:y>", b"</tu>", b"</seg>", b"<seg>", b"<tuv>"),
    *(b"<tu>", b"<tu/>", b"<seg/>", b"<bpt>", b"</ph>", b"<![CDATA[", b"]]>", b"<!--", b"<?x", b'xml:lang="en"'),
    *(b"<?xml version='1.0' encoding='utf-16'?>", b"<?xml version='1.0' encoding='nonsense'?>", b"<!DOCTYPE tmx>"),
    *(b"\xff", b"\x00", b"<a>" * 20000),
]
XML_STARTS = [
    b"<!DOCTYPE tmx [<!ENTITY a 'aaaaaaaaaa'>"  # "billion laughs"
    + b"".join(b"<!ENTITY %c '%s'>" % (97 + i, b"&%c;" % (96 + i) * 10) for i in range(1, 9))
    + b"]><tmx><tu><tuv xml:lang='en'><seg>&i;</seg></tuv></tu></tmx>",
    b"<!DOCTYPE tmx [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"
    b"<tmx><tu><tuv xml:lang='en'><seg>&a;</seg></tuv></tu></tmx>",
    *(
        b"<?xml version='1.0' encoding='%s'?>" % name
        for name in (b"utf-7", b"utf-32", b"idna", b"rot13", b"cp037", b"")
    ),
]


def sources_case(draw: random.Random, place: Path, base: Base) -> Case:
    kinds = {
        "tsv": 3,
        "csv": 3,
        "jsonl": 6,
        "parquet": 6,
        "tmx": 6,
        "xliff": 6,
        "po": 3,
        "moses": 3,
        "src": 3,
        "hub": 1,  # slow
    }
    [kind] = draw.choices(list(kinds), list(kinds.values()))
    source: dict[str, Any] = {kind: str(place / "data")}
    match kind:
        case "tsv":
            texts = (bad_text(draw), damage(draw, base.read("train.tsv")), bad_text(draw).replace(b" ", b"\t"))
            text = draw.choice(texts)
            source = {"tsv": str(packed(draw, place, "data.tsv", text))}
            if draw.random() < 0.3:
                src, tgt = draw.choice([(1, 2), (2, 1), (3, 5), (10**20, 2), ("en", "De"), ("en", 5)])
                source |= {"src_column": src, "tgt_column": tgt}
        case "csv":
            text = draw.choice([bad_text(draw), damage(draw, base.read("train.csv"))])
            source = {
                "csv": str(packed(draw, place, "data.csv", text)),
                "delimiter": draw.choice([",", ",", "tab", "e"]),
            }
        case "jsonl":
            rows = base.read("train.jsonl").splitlines()
            row = json.loads(rows[0]) if draw.random() < 0.7 else {"translation": json.loads(rows[0])}
            text = mutated(draw, row, JSON_VALUES).replace("\n", "").encode("utf-8", "surrogatepass")
            text = b"\n".join([*rows, draw.choice([text, text, damage(draw, text)]), *rows, b""])
            source = {"jsonl": str(packed(draw, place, "data.jsonl", draw.choice([text, text, bad_text(draw)])))}
        case "parquet":
            name = draw.choice(["train.parquet", "nested.parquet"])
            source = {"parquet": str(write(place / "data.parquet", damage(draw, base.read(name))))}
        case "po":
            source = {"po": str(packed(draw, place, "data.po", damage(draw, base.read("train.po"))))}
        case "tmx" | "xliff":
            text = base.read(f"train.{kind}")
            if draw.random() < 0.2:
                text = draw.choice(XML_STARTS) + draw.choice([b"", text])
            for _ in range(draw.choice([0, 1, 1, 3])):
                at = draw.randint(0, len(text))
                text = text[:at] + draw.choice(XML_PARTS) + text[at + draw.choice([0, 0, 5, 30]) :]
            text = draw.choice([text, text, damage(draw, text), text.decode("utf-8", "replace").encode("utf-16")])
            source = {kind: str(packed(draw, place, "data.xml", text))}
        case "moses" | "src":
            names = [packed(draw, place, f"data.{lang}", bad_text(draw)) for lang in ("en", "de")]
            if draw.random() < 0.3:
                write(place / draw.choice(["data.en", "data.de.gz"]), bad_text(draw))
            if draw.random() < 0.2:
                (place / "data.en").unlink(missing_ok=True)
                (place / "data.en").mkdir()
            if kind == "src":
                source = {"src": str(names[0]), "tgt": str(names[1])}
        case "hub":
            name = draw.choice(["saved", "saved_splits", "plain"])
            shutil.copytree(base.place / name, place / "data")
            path = draw.choice(sorted(path for path in (place / "data").rglob("*") if path.is_file()))
            spoil_file(draw, path)
            source |= {"split": draw.choice(["train", "train", "test", "train[:5]", "x y"])}
            source |= {"streaming": name == "plain" and draw.random() < 0.5}
    if draw.random() < 0.2:
        config = {"data": {"src_lang": "en", "tgt_lang": "de", "train": [source], "cache_dir": str(place / "cache")}}
        path = write(place / "config.yaml", json.dumps(config))
        command, *options = draw.choice(
            [
                ("stats",),
                ("stats", "--output", place / "out" / "page.html"),
                ("clean", "--output", place / "out" / "clean"),
            ]
        )
        return Case(f"{kind}, data {command}", ("data", command, path, *options))
    return Case(kind, reader=lambda: check_pairs(SourceConfig(**source)))


def check_pairs(source: SourceConfig) -> None:
    for pair in read_pairs(source, "en", "de"):
        for side in pair:
            side.encode()
            assert "\n" not in side and "\r" not in side, "a line end within a side"


def configs_case(draw: random.Random, place: Path, base: Base) -> Case:
    tree, path = base.config(), place / "config.yaml"
    sets: list[str] = []
    match draw.randrange(8):
        case 0:
            text = damage(draw, draw.choice([base.read("config.yaml"), base.read("resolved.yaml")]))
            what = "bytes"
        case 1:
            text, what = draw.choice(BAD_YAML).encode(), "YAML"
        case 2:
            text, what = packed(draw, place, "text", bad_text(draw)).read_bytes(), "text"
        case 3 | 4:
            sections = {name: list(section) for name, section in validate(tree, "").model_dump().items()}
            section = draw.choice(list(sections))
            known = f"{section}.{draw.choice(sections[section])}"
            key = draw.choice([known, known, section, "", ".", "data.train.src", "x.y", "data..x"])
            text, what = base.read("config.yaml"), f"--set {key}"
            sets = [draw.choice([key, f"{key}={draw.choice(YAML_VALUES)}", f"{key}={draw.choice(BAD_YAML)}"])]
        case _:
            if draw.random() < 0.5:  # every key, not only those that differ from the defaults
                tree = validate(tree, "").model_dump(mode="json")
            text, what = mutated(draw, tree, YAML_VALUES).encode("utf-8", "surrogatepass"), "one key"
    write(path, text)

    def read() -> None:
        config = load_config(path, sets)
        assert load_config(write(place / "again.yaml", to_yaml(config))) == config, "not the same"

    return Case(what, reader=read)


def spoil_file(draw: random.Random, path: Path) -> None:
    """Damage a file, or put something else in its place."""
    data = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.6:
        write(path, mutated(draw, json.loads(data), JSON_VALUES))
        return
    match draw.randrange(9):
        case 0:
            path.unlink()
        case 1:
            write(path, b"")
        case 2:
            path.unlink()
            path.mkdir()
        case 3:
            path.unlink()
            path.symlink_to("nowhere")
        case 4:
            others = [other for other in path.parent.iterdir() if other.is_file()]
            write(path, draw.choice(others).read_bytes())
        case 5:
            write(path, draw.randbytes(draw.choice([1, 8, 1000])))
        case _:
            write(path, damage(draw, data))


def spoil_tensors(draw: random.Random, path: Path) -> None:
    """Damage the header of a safetensors file: its length or its JSON."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    if draw.random() < 0.2:
        size = draw.choice([0, 1, size - 1, size + 1, len(data), 1 << 40, (1 << 64) - 1])
    else:
        tree = json.loads(header)
        name = draw.choice(list(tree))
        match draw.randrange(5):
            case 0:
                begin, end = tree[name]["data_offsets"]
                ranges = [[end, begin], [0, end], [begin, begin], [-1, end], [begin, 1 << 40], [begin, 1 << 64]]
                tree[name]["data_offsets"] = draw.choice(ranges)
            case 1:
                tree[name]["dtype"] = draw.choice(["F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "C64", "XX"])
            case 2:
                shape = tree[name]["shape"]
                tree[name]["shape"] = draw.choice([shape[::-1], [*shape, 1], [], [1 << 62, 4], [0], [-1], shape[:1]])
            case 3:
                tree[draw.choice(list(tree))] = tree[name]
            case _:
                pass
        text = mutated(draw, tree, JSON_VALUES) if draw.random() < 0.4 else json.dumps(tree)
        header = text.encode("utf-8", "surrogatepass")
        header += b" " * (-len(header) % 8)
        size = len(header)
    write(path, size.to_bytes(8, "little") + header + rest)


def spoil_values(draw: random.Random, path: Path) -> None:
    """Other weights than any training makes."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for _ in range(draw.choice([1, 50])):
        at = start + 4 * draw.randrange((len(data) - start) // 4)
        data[at : at + 4] = struct.pack("<f", draw.choice([math.nan, math.inf, -math.inf, 3e38, 1e-45]))
    write(path, bytes(data))


def seal(directory: Path) -> None:
    """Let a manifest say of the files what they are now, so that damage gets to those who read them."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    for name in manifest["files"]:
        with suppress(OSError):
            content = (directory / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write(path, sealed(manifest))


def models_case(draw: random.Random, place: Path, base: Base) -> Case:
    run = place / "run"
    shutil.copytree(base.run, run, ignore=shutil.ignore_patterns(".lock"))
    directory = run_directory.resolve_model(run)
    path = draw.choice(sorted(directory.iterdir()))
    what = path.name
    if draw.random() < 0.1:
        path = run / draw.choice(["best", "last"])
        content = path.read_bytes()
        others = [b"", b"\n", b"..", b"nowhere", b"\xff", b"a\x00b", b"/", content * 2, b"x" * 5000, b"step_00000000"]
        write(path, draw.choice(others))
        what = path.name
    elif what == "manifest.json" and draw.random() < 0.7:
        manifest = json.loads(path.read_bytes())
        del manifest["sha256"]
        with suppress(ValueError, TypeError, RecursionError):  # what is not JSON cannot be sealed
            write(path, text := mutated(draw, manifest, JSON_VALUES))
            write(path, sealed(json.loads(text)))
    else:
        if path.suffix == ".safetensors" and draw.random() < 0.8:
            draw.choice([spoil_tensors, spoil_tensors, spoil_tensors, spoil_values])(draw, path)
        elif what == "config.yaml" and draw.random() < 0.8:
            tree = validate(base.config(), "").model_dump(mode="json")
            write(path, mutated(draw, tree, YAML_VALUES))
        else:
            spoil_file(draw, path)
        if draw.random() < 0.8 and what != "manifest.json":
            seal(directory)
            what += " (sealed)"
    target = draw.choice([run, directory])
    commands: list[tuple[object, ...]] = [
        *2 * [("translate", target, "--set", "search.workers=1", "--output", place / "out" / "out.txt")],
        ("average", target, "--output", place / "out" / "average"),
        ("score", target, "--src", base.place / "train.en", "--tgt", base.place / "train.de"),
        ("export", target, "--format", "ctranslate2", "--output", place / "out" / "ct2"),
        ("info", target),
        ("report", run, "--output", place / "out" / "page.html"),
    ]
    if draw.random() < 0.2 or what.startswith(("state", "optimizer")):
        return Case(f"{what}: continue", reader=lambda: continue_training(base, directory))
    command = draw.choice(commands)
    return Case(f"{what}: {command[0]}", command, b"a dog\n\nthe cat\n")


def continue_training(base: Base, directory: Path) -> None:
    """What `tmt train --resume` reads of a checkpoint."""
    model = model_directory.load_model(base.run).model
    optimizer = adam(model.parameters(), OptimConfig())
    if run_directory.newest_usable(directory.parent.parent, lambda line: None) == directory:
        saver.load_training(directory, model, optimizer)
        for parameter, moments in optimizer.state.items():
            assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape, (
                "moments of another shape"
            )


def runs_case(draw: random.Random, place: Path, base: Base) -> Case:
    """A run whose log, configuration, states or prepared text are damaged, and what is told of it."""
    run = place / "run"
    shutil.copytree(base.run, run, ignore=shutil.ignore_patterns(".lock"))
    shutil.copytree(base.store, place / "cache" / "store")
    tree = json.loads(base.read("config.json"))
    tree["data"]["cache_dir"] = str(place / "cache")
    write(run / "config.yaml", json.dumps(tree))
    files = [run / "metrics.jsonl", run / "config.yaml", run / "best", *run.glob("checkpoints/*/state.json")]
    path = draw.choice([files[0], *files, place / "cache" / "store" / "meta.json"])
    if path == files[0] and draw.random() < 0.7:
        lines = path.read_bytes().splitlines() * 2
        at = draw.randrange(len(lines))
        lines[at] = mutated(draw, json.loads(lines[at]), JSON_VALUES).replace("\n", "").encode("utf-8", "surrogatepass")
        write(path, b"\n".join(lines))
    elif path == files[1] and draw.random() < 0.7:
        write(path, mutated(draw, tree, YAML_VALUES))
    else:
        spoil_file(draw, path)
    options = draw.choice([(), ("--lines", 2), ("--lines", 0)])
    if draw.random() < 0.3:
        return Case(f"{path.name}: plot", ("plot", "curves", run, "--output", place / "out" / "curves.svg"))
    return Case(f"{path.name}: report", ("report", run, "--output", place / "out" / "page.html", *options))


def requests_case(draw: random.Random, place: Path, base: Base) -> Case:
    """A request to a server, of which each byte may be wrong."""
    paths = ["/translate", "/translate", "/explain", "/candidates", "/detect", "/attention", "/languages", "/x"]
    path, kind = draw.choice(paths), "application/json"
    text = bad_text(draw, longest=900).decode("utf-8", draw.choice(["replace", "surrogateescape"]))
    if draw.random() < 0.4:
        parts = [part.decode("latin-1")[:100] for part in XML_PARTS]
        text = "".join(draw.choices([*parts, "<p>", "</p>", "<b>a dog</b>", "<br>", "&amp;", text[:50]], k=8))
    fields: dict[str, Any] = {"q": draw.choice([text, [text, "a dog"]]), "source": "en", "target": "de"}
    fields |= draw.choice([{}, {"format": "html"}, {"alternatives": 2}, {"source": "auto"}, {"format": "text"}])
    fields |= draw.choice([{}, {"prefix": ["▁a"]}, {"translation": "ein Hund"}])
    body = (
        json.dumps(fields).encode()
        if draw.random() < 0.5
        else mutated(draw, fields, JSON_VALUES).encode("utf-8", "surrogatepass")
    )
    if draw.random() < 0.3:
        forms = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/html", ""]
        kind = draw.choice([kind, *forms])
        body = draw.choice([body, b"q=%ff&source=en&target=de&q=a", b"--x\r\n" + body + b"\r\n--x--"])
    if draw.random() < 0.3:
        body = damage(draw, body)
    method = draw.choice(["POST", "POST", "POST", "GET", "PUT"])
    return Case(f"{method} {path}", reader=lambda: check_answer(base, method, path, kind, body))


def check_answer(base: Base, method: str, path: str, kind: str, body: bytes) -> None:
    """Ask a server in this process. What it refuses is an `InputError`, what it fails at any other."""
    said: dict[str, Any] = {"body": b""}
    waiting = [
        {"type": "http.request", "body": body[:100], "more_body": True},
        {"type": "http.request", "body": body[100:]},
    ]

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        said["status"] = message.get("status", said.get("status"))
        said["body"] += message.get("body", b"")

    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": method, "path": path, "headers": headers}
    scope |= {"query_string": b"", "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1)}
    with Models.load([base.run], ["search.workers=1"], 10_000, lambda _: None) as models:
        app = Interface(models, Settings(2000, 5, PATIENCE_SECONDS), Metrics()).app()

        async def ask() -> None:
            await app({**scope, "raw_path": path.encode()}, receive, send)

        asyncio.run(ask())
    answer = json.loads(said["body"])
    if said["status"] in (400, 404, 405, 413, 415, 501):
        assert list(answer) == ["error"] and answer["error"].strip(), answer
        raise InputError(f"{said['status']}: {answer['error'][:1000]!r}")
    assert said["status"] == 200, (said["status"], answer)


ARRAYS: list[Callable[[Any], Any]] = [  # of ascending numbers, other arrays
    *(lambda a: a[::-1], lambda a: a[:-1], lambda a: a[:0], lambda a: a[0], lambda a: a[None], lambda a: -a),
    *(lambda a: a + 1, lambda a: a - 5, lambda a: a * 1000),
    *(
        lambda a: a.astype(np.int32),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">i8"),
        lambda a: a.astype("U8"),
    ),
    *(lambda a: a.astype(object), lambda a: np.append(a, a[-1]), lambda a: np.append(a[-1], a[1:])),
    *(
        lambda a: np.where(np.arange(len(a)) == len(a) // 2, 1 << 62, a),
        lambda a: np.where(np.arange(len(a)) == 1, -9, a),
    ),
]


def stores_case(draw: random.Random, place: Path, base: Base) -> Case:
    store = place / "store"
    shutil.copytree(base.store, store)
    path = draw.choice(sorted(store.iterdir()))
    if path.suffix == ".npy" and draw.random() < 0.6:
        np.save(path, draw.choice(ARRAYS)(np.load(path)))
    elif path.suffix == ".lengths" and draw.random() < 0.6:
        lengths = draw.choice(ARRAYS)(np.fromfile(path, np.int32))
        write(path, lengths.astype(np.int32).tobytes() if lengths.dtype.kind in "iu" else b"")
    else:
        spoil_file(draw, path)
    return Case(path.name, reader=lambda: check_store(store))


def check_store(directory: Path) -> None:
    """Read all of it: what is not refused has pairs of the lengths that it says, from places that it can name."""
    store = IdStore(directory)
    pairs = np.arange(len(store))
    for side in SIDES:
        rows = store.get(side, pairs)
        assert [len(row) for row in rows] == store.lengths(side).tolist(), "ids and lengths differ"
        assert all(len(row) for row in rows), "a side without </s>"
    assert sum(part.end - part.start for part in store.parts()) == len(store), "its parts are not all pairs"
    for pair in pairs.tolist():
        store.describe(pair)
    assert len(store.report.summary()) and isinstance(store.fingerprint, str) and store.longest_src >= 0


KINDS: dict[str, Callable[[random.Random, Path, Base], Case]] = {
    "lines": lines_case,
    "sources": sources_case,
    "configs": configs_case,
    "models": models_case,
    "stores": stores_case,
    "runs": runs_case,
    "requests": requests_case,
}


# ---------------------------------------------------------------- what they are made from


def make_base(place: Path) -> Base:
    """In a process of its own: threads must not be there when batches are forked."""
    base = Base(place)
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the model to be damaged could not be trained")
        return base
    with suppress(BaseException):
        _fill(base)
        os._exit(0)
    traceback.print_exc()
    os._exit(1)


def _fill(base: Base) -> None:
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    place = base.place
    place.mkdir(parents=True)
    pairs = [tuple(pair) for pair in grammar.generate("train", 150)]
    for lang, side in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
        write(place / f"train.{lang}", "".join(f"{line}\n" for line in side))
    write(place / "train.tsv", "".join(f"{src}\t{tgt}\n" for src, tgt in pairs[:20]))
    rows = [{"en": src, "de": tgt} for src, tgt in pairs[:20]]
    write(place / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows[:3]))
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>{src}</seg></tuv><tuv xml:lang="de-DE"><seg>{tgt}<ph>x</ph></seg></tuv></tu>'
        for src, tgt in pairs[:3]
    )
    write(place / "train.tmx", f'<?xml version="1.0"?>\n<tmx version="1.4"><body>{units}</body></tmx>\n')
    write(
        place / "train.csv",
        "id,de,en\n" + "".join(f'{i},"{tgt}\n""",{src}\n' for i, (src, tgt) in enumerate(pairs[:9])),
    )
    units = "".join(
        f"<trans-unit id='{i}'><source>{src}</source><seg-source><mrk mtype='seg' mid='1'>{src}</mrk></seg-source>"
        f"<target>{tgt}<x id='1' equiv-text='%s'/></target></trans-unit>"
        for i, (src, tgt) in enumerate(pairs[:3])
    )
    body = f'<file source-language="en" target-language="de"><body>{units}</body></file>'
    write(place / "train.xliff", f'<xliff version="1.2">{body}</xliff>\n')
    header = 'msgid ""\nmsgstr "Language: de\\nPlural-Forms: nplurals=2; plural=n != 1;\\n"\n\n'
    plural = 'msgid "%d"\nmsgid_plural "%d %d"\nmsgstr[0] "1"\nmsgstr[1] "2"\n'
    messages = "".join(f'#, fuzzy\nmsgid "{src}"\nmsgstr ""\n"{tgt}"\n\n' for src, tgt in pairs[:3])
    write(place / "train.po", header + messages + plural)
    parquet.write_table(pa.Table.from_pylist(rows), place / "train.parquet")
    nested = [{"id": i, "translation": row} for i, row in enumerate(rows)]
    parquet.write_table(pa.Table.from_pylist(nested), place / "nested.parquet", compression="zstd", row_group_size=5)
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(nested, split="train")
    data.save_to_disk(place / "saved")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(place / "saved_splits")
    (place / "plain").mkdir()
    shutil.copy(place / "train.jsonl", place / "plain" / "train.jsonl")

    config = {
        "data": {
            **{"src_lang": "en", "tgt_lang": "de", "cache_dir": str(place / "cache")},
            **{"train": [{"src": str(place / "train.en"), "tgt": str(place / "train.de"), "name": "all"}]},
            **{"valid": [{"builtin": "grammar", "split": "valid", "num_pairs": 3}]},
            **{"stages": [{"weights": {"all": 1.0}}], "clean": {"scripts": {"en": ["Latin"]}}},
        },
        "tokenizer": {"vocab_size": 330},
        "model": {
            **{"preset": "tiny", "d_model": 16, "d_ff": 32, "num_heads": 2},
            **{"num_encoder_layers": 1, "num_decoder_layers": 1},
        },
        "batch": {"max_tokens": 300},
        "train": {"max_steps": 4, "eval_steps": 2, "checkpoint_steps": 2, "precision": "float32"},
        "search": {"beam_size": 2, "max_extra_tokens": 5},
    }
    path = write(place / "config.yaml", json.dumps(config, indent=1))
    resolved = load_config(path)
    write(place / "resolved.yaml", to_yaml(resolved))
    write(place / "config.json", resolved.model_dump_json())
    with patch("sys.argv", ["tmt", "train", str(path), "--output", str(base.run)]), suppress(SystemExit):
        cli.main()
    shutil.copy(base.run / "tokenizer.model", place / "tok.model")


# ---------------------------------------------------------------- running and judging


class Hang(BaseException):
    pass


def fuzz(base: Base, seed: int, numbers: Iterable[int], keep_all: bool = False) -> Iterator[Result]:
    """The results of cases, by number; the files of those with a finding stay in the directory ``cases``."""
    waiting = list(numbers)
    while waiting:
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        receiver, sender = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(receiver)
            _run_batch(base, seed, batch, sender, keep_all)
        os.close(sender)
        with open(receiver, encoding="utf-8") as lines:
            for line in lines:
                yield Result(*json.loads(line))
                batch.pop(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if batch:
            said = (base.place / "stderr").read_text(encoding="utf-8", errors="replace")
            yield Result(batch.pop(0), "?", status, f"the interpreter ended with status {status}", said)
            waiting = batch + waiting


def _run_batch(base: Base, seed: int, batch: list[int], sender: int, keep_all: bool) -> NoReturn:
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, name in enumerate(("stdout", "stderr"), 1):  # what libraries write there is seen as well
            os.dup2(os.open(base.place / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        faulthandler.enable(2)
        with open(sender, "w", encoding="utf-8") as results:
            for number in batch:
                result = _run_one(base, seed, number, keep_all)
                results.write(json.dumps(result) + "\n")
                results.flush()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(status)


def _run_one(base: Base, seed: int, number: int, keep_all: bool) -> Result:
    place = base.place / "cases" / str(number)
    shutil.rmtree(place, ignore_errors=True)
    (place / "out").mkdir(parents=True)
    for descriptor in (1, 2):
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.truncate(descriptor, 0)
    kind = list(KINDS)[number % len(KINDS)]
    case = KINDS[kind](random.Random(f"{seed}/{number}"), place, base)
    status, problem = _call(case, place)
    stdout, stderr = ((base.place / name).read_bytes() for name in ("stdout", "stderr"))
    problem = problem or judge(case, place, status, stdout, stderr.decode("utf-8", "replace"))
    if not problem and not keep_all:
        shutil.rmtree(place)
    command = "" if case.reader else " ".join(map(str, ("tmt", *case.arguments))) + "\n"
    return Result(number, case.what, status, problem, command + stderr.decode("utf-8", "replace"))


def _call(case: Case, place: Path) -> tuple[int | None, str]:
    """Exit status, and what went wrong that has none."""

    def hang(*_: object) -> None:
        raise Hang

    def text(descriptor: int, errors: str) -> TextIO:
        return open(descriptor, "w", encoding="utf-8", errors=errors, closefd=False)

    signal.signal(signal.SIGALRM, hang)
    reader = case.reader
    app = cli.app if reader is None else lambda standalone_mode: reader()
    try:
        with (
            open(write(place / "stdin", case.stdin), encoding="utf-8") as stdin,
            patch("sys.argv", ["tmt", *map(str, case.arguments)]),
            patch("sys.stdin", stdin),
            text(1, "strict") as stdout,
            text(2, "backslashreplace") as stderr,
            patch("sys.stdout", stdout),
            patch("sys.stderr", stderr),
            patch("transformer_mt.cli.main.app", app),
        ):
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, resource.RLIM_INFINITY))
            signal.alarm(PATIENCE_SECONDS)
            faulthandler.dump_traceback_later(
                3 * PATIENCE_SECONDS, exit=True, file=2
            )  # where no signal handler gets its turn
            try:
                cli.main()
            finally:
                signal.alarm(0)
                faulthandler.cancel_dump_traceback_later()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else None, ""
    except Hang:
        return None, f"a hang: {_where()}"
    except BaseException as error:
        first = (str(error).splitlines() or [""])[0]
        return None, f"{type(error).__name__}: {first[:200]} ({_where()})"
    raise AssertionError("main came back")


def _where() -> str:
    """The last place in the package, and the last one at all, of the error that is being handled."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "transformer_mt" in frame.filename or "fuzz.py" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (frames[-1], ours[-1]))


def judge(case: Case, place: Path, status: int | None, stdout: bytes, stderr: str) -> str:
    """What is wrong with how a case has ended; empty: nothing."""
    hidden = [path.name for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    if hidden:
        return f"left behind: {', '.join(hidden)}"
    lines = stderr.splitlines()
    long = max(map(len, lines), default=0)
    if long > LONGEST_LINE:
        return f"a line of {long} characters: {max(lines, key=len)[:80]}…"
    if "Traceback" in stderr:
        return "a traceback"
    if status == 0:
        found = num_lines(stdout)
        return "" if case.num_lines in (None, found) else f"{found} lines for {case.num_lines}"
    if status != 2 and not (status == 1 and SPOILED in stderr):
        return f"status {status}"
    if not lines or not lines[-1].startswith("tmt: ") or not lines[-1].removeprefix("tmt: ").strip():
        return "no reason in the last line"
    if more := [line for line in lines[:-1] if not line.startswith(WARNINGS)]:
        return f"more than one line: {more[0][:80]!r}"
    return f"output in spite of the refusal: {os.listdir(place / 'out')}" if any((place / "out").iterdir()) else ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed bad input to everything that reads.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="one case; its files stay, with --keep")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where files of findings stay; must be new")
    args = parser.parse_args()
    place = args.keep or Path(tempfile.mkdtemp(prefix="fuzz_")) / "base"
    began = time.monotonic()
    base = make_base(place)
    numbers = range(args.count) if args.only is None else [args.only]
    counts: Counter[tuple[str, str]] = Counter()
    try:
        for result in fuzz(base, args.seed, numbers, keep_all=args.only is not None):
            kind = list(KINDS)[result.number % len(KINDS)]
            outcome = "findings" if result.problem else "refused" if result.status else "succeeded"
            counts[kind, outcome] += 1
            if result.problem:
                repeat = f"python scripts/fuzz.py --seed {args.seed} --only {result.number} --keep DIR"
                print(f"FINDING {kind}, {result.what}: {result.problem}\n    {repeat}", flush=True)
                if result.what == "?":
                    print(result.said)
            if args.only is not None:
                print(f"{kind}, {result.what}: status {result.status}\n{result.said}")
    finally:
        if args.keep is None:
            shutil.rmtree(place.parent)
    outcomes = ("succeeded", "refused", "findings")
    print(f"{'kind':10}{'cases':>10}" + "".join(f"{outcome:>11}" for outcome in outcomes))
    for kind in KINDS:
        found = [counts[kind, outcome] for outcome in outcomes]
        print(f"{kind:10}{sum(found):10,}" + "".join(f"{number:11,}" for number in found))
    print(f"{counts.total():,} cases with seed {args.seed} in {time.monotonic() - began:.0f} s")
    return 1 if any(counts[kind, "findings"] for kind in KINDS) else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The id store: what was written is read; files that do not fit together are refused, never read beyond."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformer_mt.data.checksums import Checksums, damage
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.data.store import SIDES, IdStore, finish_store, write_places, write_side
from transformer_mt.errors import InputError, RunError

ROWS = {"src": [[5, 3], [6, 7, 8, 3], [3], [9, 3]], "tgt": [[5, 5, 3], [3], [6, 3], [7, 7, 7, 3]]}
SHARDS = [3, 0, 1]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three shards, the second without pairs."""
    begin = 0
    files: Checksums = {}
    for shard, size in enumerate(SHARDS):
        for side in SIDES:
            rows = ROWS[side][begin : begin + size]
            offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
            if size:
                files |= write_side(tmp_path, shard, side, np.concatenate(rows).astype(np.uint16), offsets)
        files |= write_places(tmp_path, shard, np.arange(begin, begin + size, dtype=np.int64) * 2)
        begin += size
    report = CleanReport(kept=4)
    report.count("identical", SentencePair("a", "a"), 1)
    meta = {
        **{"format": 2, "dtype": "uint16", "shards": SHARDS, "sources": [("a.txt", 4, 2), ("b.txt", 3, 2)]},
        **{"longest": {"src": 4, "tgt": 4}, "tokens": {"src": 9, "tgt": 10}, "fingerprint": "f"},
        "report": dataclasses.asdict(report),
    }
    finish_store(tmp_path, meta, files)
    return tmp_path


def test_what_was_written_is_read(directory: Path) -> None:
    store = IdStore(directory)
    for side, rows in ROWS.items():
        assert [ids.tolist() for ids in store.get(side, np.array([3, 0, 1, 2]))] == [rows[i] for i in (3, 0, 1, 2)]
        assert store.lengths(side).tolist() == list(map(len, rows))
    assert store.report.rejected == {"identical": 1} and store.report.examples["identical"][0].src == "a"
    assert (store.fingerprint, store.longest_src, store.num_tgt_tokens) == ("f", 4, 10)


@pytest.mark.parametrize("most_open", [1, 9])
def test_pairs_are_gathered_from_all_shards(most_open: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.store._most_open_shards", lambda: most_open)
    store = IdStore(directory)
    for wanted in ([2, 3, 0, 3, 1], [1], []):
        ids, lengths = store.gather("src", np.array(wanted, dtype=np.int64))
        assert ids.tolist() == [i for pair in wanted for i in ROWS["src"][pair]]
        assert lengths.tolist() == [len(ROWS["src"][pair]) for pair in wanted]
        assert ids.dtype == np.uint16 and type(store.lengths("src")) is np.ndarray
        rows = store.get("src", np.array(wanted, dtype=np.int64))
        assert [row.tolist() for row in rows] == [ROWS["src"][pair] for pair in wanted]
    assert len(store._open) == min(most_open, 2)
    store._open.clear()  # what was gathered does not keep files open
    maps = Path("/proc/self/maps")
    assert not maps.exists() or f"{directory}/00000.src.ids" not in maps.read_text()


def test_any_changed_byte_of_any_file_is_found(directory: Path) -> None:
    assert damage(directory) is None
    paths = sorted(directory.iterdir())
    assert len(paths) == 2 * 4 + 3 + 2 + 1
    for path in paths:
        content = path.read_bytes()
        places = range(0, len(content), 97 if path.name == "meta.json" else 5)
        wrong = [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in places]
        for damaged in [*wrong, content[:-1], content + b"\0", b""]:
            path.write_bytes(damaged)
            reason = damage(directory)
            assert reason is not None and path.name in reason
        path.unlink()
        assert damage(directory) == f"{path.name}: No such file or directory"
        path.write_bytes(content)
    assert damage(directory) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.ESTALE])
def test_what_the_system_refuses_is_no_damage(number: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes it for damage deletes what may be whole."""
    store, refuse = IdStore(directory), refusing(number)
    tries: dict[str, Callable[[], Any]] = {
        "transformer_mt.data.checksums.open": lambda: damage(directory),
        "pathlib.Path.read_bytes": lambda: damage(directory),
        "pathlib.Path.read_text": lambda: IdStore(directory),
        "numpy.memmap": lambda: store.get("src", np.array([0])),
        "numpy.load": lambda: store.places(0),
    }
    for name, use in tries.items():
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse, raising=False)
            with pytest.raises(RunError, match=rf"cannot be read \({os.strerror(number)}\); "):
                use()
    assert damage(directory) is None


def refusing(number: int) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def test_an_error_of_the_disk_is_damage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.checksums.open", refusing(errno.EIO), raising=False)
    assert (damage(directory) or "").endswith(": Input/output error")


def test_a_pipe_is_damage_and_nobody_waits_for_it(directory: Path) -> None:
    for name in ("00002.tgt.ids", "meta.json"):
        (directory / name).unlink()
        os.mkfifo(directory / name)
        assert damage(directory) == f"{name}: no plain file"


OFFSETS: dict[str, Callable[[Any], Any]] = {
    "descending": lambda offsets: offsets[::-1],
    "shifted": lambda offsets: offsets + 1,
    "huge": lambda offsets: np.where(np.arange(len(offsets)) == 1, 1 << 40, offsets),
    "negative": lambda offsets: np.where(np.arange(len(offsets)) == 1, -1, offsets),
    "swapped": lambda offsets: offsets[[0, 2, 1, 3]],
    "floats": lambda offsets: offsets.astype(np.float64),
    "a table": lambda offsets: offsets[None],
    "a number": lambda offsets: offsets[0],
    "none": lambda offsets: offsets[:0],
    "too many": lambda offsets: np.append(offsets, offsets[-1]),
}


@pytest.mark.parametrize("change", OFFSETS.values(), ids=OFFSETS)
def test_offsets_that_are_not_those_of_the_pairs_are_refused(change: Callable[[Any], Any], directory: Path) -> None:
    path = directory / "00000.src.offsets.npy"
    np.save(path, change(np.load(path)))
    store = IdStore(directory)
    assert [ids.tolist() for ids in store.get("src", np.array([3]))] == [[9, 3]]  # another shard is whole
    with pytest.raises(InputError, match=r"damaged \(shard 0 is cut off or changed\); delete it and run again"):
        store.get("src", np.array([0]))


def test_negative_lengths_are_refused(directory: Path) -> None:
    path = directory / "src.lengths"
    (-np.fromfile(path, np.int32)).tofile(path)
    with pytest.raises(InputError, match=r"damaged \(src.lengths has negative numbers\); delete it and run again"):
        IdStore(directory).get("src", np.array([0, 3]))


PLACES: dict[str, Callable[[Any], Any]] = {
    "huge": lambda places: places + (1 << 40),
    "negative": lambda places: places - 1000,
    "too few": lambda places: places[:-1],
    "floats": lambda places: places.astype(np.float64),
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_wrong_places_are_refused(change: Callable[[Any], Any], directory: Path) -> None:
    path = directory / "00000.places.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(InputError, match=r"damaged \(shard 0 has wrong places\); delete it and run again"):
        IdStore(directory).describe(0)


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n"])
def test_what_is_no_array_is_refused(content: bytes | None, directory: Path) -> None:
    for name in ("00000.places.npy", "00000.src.offsets.npy"):
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"the prepared corpus is damaged \({name}: "):
            IdStore(directory).describe(0) if "places" in name else IdStore(directory).get("src", np.array([0]))


def test_lengths_that_are_not_those_of_the_shards_are_refused(directory: Path) -> None:
    lengths = np.fromfile(directory / "src.lengths", np.int32)
    (lengths + 1).tofile(directory / "src.lengths")
    with pytest.raises(InputError, match="shard 0 is cut off or changed"):
        IdStore(directory).get("src", np.array([0]))
    np.append(lengths, lengths[-1]).tofile(directory / "src.lengths")
    with pytest.raises(InputError, match="different numbers of pairs"):
        IdStore(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"shards": [-1]},
        {"shards": 4},
        {"shards": [4, 1 << 70]},
        {"sources": [["a", 4]]},
        {"sources": []},
        {"longest": {"src": 3}},
        {"tokens": None},
        {"dtype": "float64"},
        {"report": {"kept": "4"}},
        {"fingerprint": 1},
    ],
    ids=str,
)
def test_facts_of_another_form_are_refused(change: dict[str, Any], directory: Path) -> None:
    path = directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"the prepared corpus is damaged \(.*\); delete it and run again"):
        IdStore(directory)

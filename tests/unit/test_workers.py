"""How many cores there are, and work spread over them in order; tests/e2e/test_decoding.py has the processes' ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformer_mt import workers
from transformer_mt.errors import InputError
from transformer_mt.workers import num_cores, on_all_cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("150000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), (None, 4)]
)
def test_a_containers_quota_counts(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(workers, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert num_cores() == cores


@pytest.mark.parametrize("num_processes", [1, 3])
def test_results_come_in_order_and_jobs_are_not_read_far_ahead(
    num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: num_processes)
    read = 0

    def jobs() -> Iterator[int]:
        nonlocal read
        for number in range(1, 201):
            read = number
            yield number

    for number, result in enumerate(on_all_cores(lambda job: (job, os.getpid()), jobs()), 1):
        assert result[0] == number
        assert (result[1] == os.getpid()) == (num_processes == 1)
        assert read <= number + 3 * num_processes + 2
    assert number == 200


@pytest.mark.parametrize("count", [0, 1])
def test_little_work_needs_no_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 3)
    assert list(on_all_cores(lambda job: os.getpid(), range(count))) == [os.getpid()] * count


def test_a_refusal_of_a_process_is_ours() -> None:
    def refuse(job: int) -> int:
        if job == 5:
            raise InputError("line 5: no")
        return job

    found: list[int] = []
    with pytest.raises(InputError, match=r"^line 5: no$"):
        found.extend(on_all_cores(refuse, range(100)))

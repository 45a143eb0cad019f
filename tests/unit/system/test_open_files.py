from __future__ import annotations

import resource

import pytest

from transformer_mt.system.open_files import allow_open_files

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "wanted", "allowed", "becomes"),
    [
        ((1024, 4096), 2000, 2000, (2000, 4096)),
        ((1024, 4096), 9000, 4096, (4096, 4096)),
        ((1024, INFINITE), 9000, 9000, (9000, INFINITE)),
        ((1024, 4096), 500, 500, None),
        ((1024, 1024), 2000, 1024, None),
        ((INFINITE, INFINITE), 500, 500, None),
    ],
)
def test_the_limit_rises_as_far_as_it_may(
    limits: tuple[int, int],
    wanted: int,
    allowed: int,
    becomes: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: set_to.append(new))
    assert allow_open_files(wanted) == allowed
    assert set_to == ([] if becomes is None else [becomes])


def test_where_the_system_refuses_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, INFINITE))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_open_files(10_000) == 256

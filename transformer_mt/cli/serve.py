"""``tmt serve``: models behind LibreTranslate's interface."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import SetSearchOption
from transformer_mt.errors import InputError

_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "langcodes", "language_data", "lxml")


def serve(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL…", help="Runs, checkpoints, averaged models or exports.")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is one that is free.")] = 5000,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", metavar="FILE", help="Answer only who knows a key: one a line.")
    ] = None,
    cors: Annotated[
        list[str],
        typer.Option("--cors", metavar="ORIGIN", help="Pages of this origin may read answers; * is all. Repeatable."),
    ] = [],  # noqa: B006
    max_characters: Annotated[
        int, typer.Option("--max-characters", min=1, help="Of the texts of a request, at most.")
    ] = 20_000,
    max_texts: Annotated[int, typer.Option("--max-texts", min=1, help="Of a request, at most.")] = 1000,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Characters that wait for a model before requests get 429.")
    ] = 200_000,
    max_connections: Annotated[
        int, typer.Option("--max-connections", min=1, help="Before further ones get 503.")
    ] = 500,
    timeout: Annotated[
        int, typer.Option("--timeout", min=1, max=86_400, help="Seconds for a request to come, and for its answer.")
    ] = 60,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Serve models over HTTP, as LibreTranslate does; Ctrl-C or SIGTERM ends it when all is answered."""
    if any(find_spec(name) is None for name in _PACKAGES):
        raise InputError("tmt serve: needs packages that are not here; pip install 'transformer-mt[serve]'")
    from transformer_mt.server.app import Settings
    from transformer_mt.server.running import read_keys
    from transformer_mt.server.running import serve as run

    keys = frozenset[bytes]() if api_keys is None else read_keys(api_keys)
    settings = Settings(max_characters, max_texts, timeout, keys, tuple(cors), max_connections)
    run(models, overrides, host, port, settings, max_waiting)

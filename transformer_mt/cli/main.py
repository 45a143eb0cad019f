"""The command line. Thin: it reads options, calls one function, and turns an expected failure into one line.

Nothing heavy is imported before a command needs it, so that ``tmt --help`` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from transformer_mt import __version__
from transformer_mt.cli.compare import compare
from transformer_mt.cli.data import data_app
from transformer_mt.cli.evaluate import evaluate, score
from transformer_mt.cli.info import info
from transformer_mt.cli.init import init
from transformer_mt.cli.models import average, export, import_model
from transformer_mt.cli.plot import plot_app
from transformer_mt.cli.report import report
from transformer_mt.cli.serve import serve
from transformer_mt.cli.tokenizer import tokenizer_app
from transformer_mt.cli.train import train
from transformer_mt.cli.translate import translate
from transformer_mt.errors import TmtError, is_out_of_memory
from transformer_mt.system.console import let_go_of_stderr, tell
from transformer_mt.system.signals import raised_signals

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train your own machine translation engine: two text files in, a translator out.",
)
app.command()(init)
app.command()(train)
app.command()(translate)
app.command()(score)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(report)
app.command()(info)
app.command()(average)
app.command()(export)
app.command("import")(import_model)
app.command()(serve)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(plot_app, name="plot")
app.add_typer(data_app, name="data")


# Typer shows usage errors as a box of several lines; ours are one line, like every other refusal. The class is
# Click's or Typer's own, by Typer's version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


_INTERRUPTED = 130  # the status of an interrupt, which some versions of Typer return and others raise


def main() -> None:
    """Entry point of ``tmt``: exit status 0 done, 1 failed while running, 2 wrong usage, configuration or input."""
    if sys.stderr is None:  # it was closed (`2>&-`): print would write to stdout what is meant for it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    atexit.register(let_go_of_stderr)
    if sys.platform == "win32":
        _leave(2, "Windows: is not supported (it lacks Unix's file locks and signals); run tmt in WSL, as on Linux")
    if sys.stdout is None:
        _leave(2, "stdout: is closed; send it to a file, or to /dev/null")
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # what we write is UTF-8, in an ASCII terminal too; a path is its bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        # A rank may wait for others in code where Python's handlers do not run; it is ended as ever.
        with contextlib.nullcontext() if "RANK" in os.environ else raised_signals():
            try:
                status = app(standalone_mode=False)
            except TmtError:
                sys.stdout.flush()  # after what is printed (`tmt data check … | head -1`)
                raise
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()  # here, where a failure can still be told
    except TmtError as error:
        _leave(error.exit_status, str(error))
    except _UsageError as error:
        message = str(error.format_message())  # type: ignore[attr-defined]  # empty for a bare `tmt`: it has shown help
        _leave(2, f"{message.rstrip('.')}; see tmt --help" if message else "")
    except (KeyboardInterrupt, typer.Abort):
        _leave(1, "interrupted")
    except BrokenPipeError:
        # The reader has gone (`tmt translate … | head`).
        _close_stdout()
        _leave(1, "")
    except OSError as error:
        # Files name themselves in refusals of their own; the one output without a name is stdout (`tmt … > full/disk`).
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            _close_stdout()
            _leave(1, f"stdout: cannot be written ({error.strerror}); free some space and run again")
        _leave(*_refused_by_system(error))
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            wanted = str(error).strip().splitlines()[-1:] or ["no more to be had"]
            _leave(
                1,
                f"out of memory ({wanted[0]}); lower search.batch_tokens or search.beam_size (in training: "
                "batch.micro_tokens), or free some memory",
            )
        # Python's words for paths that no system has, wherever they stand.
        if "null byte" in str(error) or "null character" in str(error):
            _leave(2, "a path has a NUL byte in it; correct it on the command line or in the configuration")
        if "home directory" in str(error):
            _leave(2, "~: there is no home directory (HOME is not set); set it, or name data.cache_dir without ~")
        raise
    raise SystemExit(status if isinstance(status, int) else 0)


def _refused_by_system(error: OSError) -> tuple[int, str]:
    """The status and the line for what the system refused and nobody had words of their own for."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return 1, f"too many open files ({error.strerror}); raise the limit, for example: ulimit -n 1024"
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return 1, f"the system has no memory or no process left ({error.strerror}); free some, or set search.workers: 1"
    if error.filename is None or error.strerror is None:
        raise error
    from transformer_mt.system.whole_files import advice_on

    name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename)
    return 2, f"{name}: cannot be used ({error.strerror}); {advice_on(error)}"


def _close_stdout() -> None:
    """Keep Python's shutdown from failing once more on what is left in the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(status: int, message: str) -> NoReturn:
    if message:
        tell(f"tmt: {message}")
    raise SystemExit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"transformer_mt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass

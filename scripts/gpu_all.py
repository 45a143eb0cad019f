"""All that is to be known about `tmt` on a GPU, by one command in at most nine minutes.

    python3 scripts/gpu_all.py --output results [--parts machine tests …]
    python3 scripts/gpu_all.py --dry --output results      # every part with tiny shapes, for a machine without a GPU

The machine may be bare: Python 3.12, PyTorch 2.11, sentencepiece, sacrebleu, typer, tqdm, safetensors, numpy, pytest,
hypothesis, transformers, no network. What else `tmt` needs lies as wheels in `.whl` beside the files of the project and
is unpacked for these processes only:

    pip download --no-deps -d .whl --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \\
        pydantic pydantic-core annotated-types typing-extensions typing-inspection ruamel.yaml

(`pydantic-core` in the version that `pydantic` asks for). Multi30k is learned where `TMT_DATA`, or a folder `data` in
the project or beside it, has it.

Each part (scripts/gpu_parts.py) is a process of its own, ended when its time is over; a part that fails does not keep
the others from running. In the directory of --output (default: $OUT) lie then `table.txt`, which is printed last,
`records.jsonl` (all numbers), `log.txt` (what the parts said), `tests.txt`, `tests_of_commands.txt` and `kernels.txt`.
Exit status 1: a part has failed.

`--dry` runs the same code on small shapes, with nothing that a bare machine lacks: other modules cannot be imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALL_SECONDS = 530.0  # ten minutes are the most that a machine is lent for

# The time that each part may take, in the order in which they run: what is longest, and least needed, comes last.
SECONDS = {
    "machine": 40.0,
    "tests": 150.0,
    "estimate": 30.0,
    "train base deterministic": 45.0,
    "train base free": 45.0,
    "train base compiled": 90.0,
    "train big deterministic": 50.0,
    "train big free": 50.0,
    "train big compiled": 100.0,
    "decode": 75.0,
    "resume": 90.0,
    "kernels": 45.0,
    "learn builtin": 60.0,
    "learn multi30k": 100.0,
}

# What a bare machine has, with all that these packages need themselves; and the wheels beside the project.
THERE = (
    *("torch", "triton", "sentencepiece", "sacrebleu", "typer", "tqdm", "safetensors", "numpy", "pytest"),
    *("hypothesis", "transformers"),
)
WHEELS = ("pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection", "ruamel.yaml")

# Before everything else in each process of a dry run, by the name under which Python looks for it.
BARE = """
import sys
from importlib.machinery import PathFinder
MISSING = {missing!r}
class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


@dataclass
class Outcome:
    """How a part has ended."""

    part: str
    status: str  # "ok", or why it is not
    seconds: float
    records: list[dict[str, Any]] = field(default_factory=list)


def run(part: str, command: Sequence[str], limit: float, environment: Mapping[str, str], log: Path) -> Outcome:
    """Run a part to its end, or to its time limit; whatever it has started ends with it.

    Args:
        command: prints numbers on stdout, a JSON object a line. What it says on stderr goes to the log.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, open(log, "a", encoding="utf-8") as err:
        err.write(f"\n==== {part}: {' '.join(command)}\n")
        err.flush()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            status = "ok" if code == 0 else f"failed (exit status {code}, see log.txt)"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:
            end_group(process)
        out.seek(0)
        records = [{"part": part, **json.loads(line)} for line in out if line.startswith("{")]
    if status == "ok" and not records:
        status = "failed (no number)"
    return Outcome(part, status, time.monotonic() - started, records)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End all processes of a part, those that it has left behind too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(work: Path, is_dry: bool) -> dict[str, str]:
    """The environment of all parts: where they import from, and not more than a bare machine has."""
    paths = [str(ROOT), str(ROOT / "scripts")]
    if wheels := sorted(map(str, (ROOT / ".whl").glob("*.whl"))):
        site = work / "site"
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*install, "--target", str(site), *wheels], check=True)
        paths.append(str(site))
    if is_dry:
        (work / "bare").mkdir()
        (work / "bare" / "sitecustomize.py").write_text(BARE.format(missing=missing_modules()), encoding="utf-8")
        paths.insert(0, str(work / "bare"))
    data = [Path(os.environ.get("TMT_DATA", "")), ROOT / "data", ROOT.parent / "data", ROOT / "shared" / "data"]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TMT_DATA": str(next((path for path in data if (path / "multi30k").is_dir()), "data")),
    }


def missing_modules() -> set[str]:
    """The modules that are installed here, and are not those of `THERE`, `WHEELS` and what they need themselves."""
    needed, open_names = set[str](), [*THERE, *WHEELS]
    while open_names:
        name = _normal(open_names.pop())
        if name in needed:
            continue
        needed.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # triton, on a machine without a GPU
            continue
        for requirement in requirements:
            if "extra ==" not in requirement:
                open_names.append(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
    return {
        module
        for module, packages in metadata.packages_distributions().items()
        if not {_normal(package) for package in packages} & needed and module != "transformer_mt"
    }


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def table(outcomes: Sequence[Outcome]) -> str:
    """What each part has measured, and how it ended, as lines of text."""
    lines = []
    for outcome in outcomes:
        lines.append(f"{outcome.part:28} {outcome.status} ({outcome.seconds:.0f} s)")
        for record in outcome.records:
            lines.append("    " + "  ".join(f"{key} {_text(value)}" for key, value in record.items() if key != "part"))
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=os.environ.get("OUT"), help="for the results; default: $OUT")
    parser.add_argument("--parts", nargs="+", choices=SECONDS, default=list(SECONDS), metavar="PART")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, two updates each")
    args = parser.parse_args()
    if args.output is None:
        parser.error("--output DIR: is missing, and so is $OUT")
    output = Path(args.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    slower = 3 if args.dry else 1  # there is no hurry, and the machine may be a slow one
    until = time.monotonic() + slower * ALL_SECONDS

    def of(part: str) -> Outcome:
        words = [sys.executable, str(ROOT / "scripts" / "gpu_parts.py"), *part.split(), "--work", str(work)]
        words += ["--output", str(output), *(["--dry"] if args.dry else [])]
        limit = min(slower * SECONDS[part], until - time.monotonic())
        words += ["--seconds", str(limit)]
        outcome = Outcome(part, "not begun: no time left", 0.0)
        if limit > 5:
            outcome = run(part, words, limit, variables, output / "log.txt")
        print(f"{part}: {outcome.status}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
        return outcome

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2 if args.dry else 1) as pool:
        work = Path(directory)
        variables = environment(work, args.dry)
        outcomes = list(pool.map(of, args.parts))
    text = table(outcomes)
    (output / "table.txt").write_text(text, encoding="utf-8")
    with open(output / "records.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for outcome in outcomes for record in outcome.records)
    print(text, end="")
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

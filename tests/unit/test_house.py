"""The rules of the house: imports go downwards, files and functions stay short, the command line stays as it is, and
nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import transformer_mt
from transformer_mt.cli.main import app

PACKAGE = Path(transformer_mt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. A folder imports from folders on floors below its own.
FLOORS = (
    "errors | system toy_corpus | config | text search | model data | checkpoints | decoding | exchange | evaluation | "
    "server | curation | training | recipes | cli"
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS.split(" | ")) for room in floor.split()}

MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 80
LONG_FUNCTIONS = {"training.setup.set_up"}  # all that a run is made of, in order

# Without pydantic, which some versions of Typer import themselves; that our configuration stays out is checked too.
HEAVY = {
    "torch",
    "numpy",
    "sentencepiece",
    "sacrebleu",
    "datasets",
    "safetensors",
    "ruamel",
    "tqdm",
    "ctranslate2",
    "starlette",
}

# Design, section 2; every command has --help besides.
COMMANDS = {
    "tmt": "--version",
    "tmt tokenizer": "",
    "tmt tokenizer train": "--input --output --vocab-size --type --set",
    "tmt tokenizer encode": "--model",
    "tmt tokenizer decode": "--model",
    "tmt data": "",
    "tmt data stats": "CONFIG.yaml --output --json --set",
    "tmt data clean": "CONFIG.yaml --output --gz --set",
    "tmt data split": "CONFIG.yaml --output --valid --test --seed --gz --set",
    "tmt data check": "CONFIG.yaml --set",
    "tmt data synthesize": "CONFIG.yaml --set",
    "tmt init": (
        "--src --tgt --output --valid-src --valid-tgt --test-src --test-tgt --src-lang --tgt-lang "
        "--src-column --tgt-column --from --replay-src --replay-tgt --minutes"
    ),
    "tmt train": "CONFIG.yaml --output --set --resume --dry-run",
    "tmt translate": (
        "MODEL --input --output --beam-size --length-penalty --n-best --tgt-lang --prefix --ensemble --align --json "
        "--stats --line-buffered --set"
    ),
    "tmt score": "MODEL --src --tgt --tokens --set",
    "tmt eval": (
        "[MODEL] --hyp --ref --src --test-set --langs --metrics --papers --json --confidence --sentence --tokenize "
        "--tgt-lang --lowercase --set"
    ),
    "tmt compare": "SYSTEM… --ref --src --train --sentences --output --json --tokenize --tgt-lang --set",
    "tmt report": "RUN_DIR --output --lines --comet",
    "tmt info": "MODEL --json",
    "tmt average": "RUN_DIR|CHECKPOINT… --output --last --validate",
    "tmt export": "MODEL --format --output --quantization",
    "tmt import": "DIR --output",
    "tmt serve": (
        "MODEL… --host --port --api-keys --cors --max-characters --max-texts --max-waiting --max-connections "
        "--timeout --set"
    ),
    "tmt plot": "",
    "tmt plot curves": "RUN_DIR… --output",
    "tmt plot attention": (
        "MODEL --src --tgt --output --use --layer --head --style --word --pieces --json --tgt-lang --set"
    ),
    "tmt plot lengths": "[MODEL…] --src --ref --hyp --output --edges --json --tokenize --tgt-lang --set",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package == "transformer_mt":
                yield module_of(parts)


def module_of(parts: list[str]) -> str:
    """The module that the parts of a dotted name lead to; what follows is a name in it."""
    for end in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:end])
        if path.with_suffix(".py").exists():
            return ".".join(parts[:end])
        if path.is_dir():
            return ".".join([*parts[:end], "__init__"])
    return "__init__"


def test_every_folder_has_its_floor() -> None:
    assert {module_name(path).split(".")[0] for path in FILES} == {*FLOOR_OF, "__init__", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_downwards(path: Path) -> None:
    own = module_name(path).split(".")[0]
    below = {"__init__", own, *(room for room, floor in FLOOR_OF.items() if floor < FLOOR_OF.get(own, 99))}
    assert [name for name in imports_of(path) if name.split(".")[0] not in below] == []


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import torch, transformer_mt.model.transformer\n"
        "from transformer_mt import model, __version__\n"
        "from transformer_mt.search.beam import search\n"
        "from transformer_mt.exchange import ctranslate2\n"
        "def f():\n    from transformer_mt.cli.main import app\n"
    )
    expected = ["model.transformer", "model.__init__", "__init__", "search.beam", "exchange.ctranslate2", "cli.main"]
    assert list(imports_of(file)) == expected


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = {
        f"{module_name(path)}.{node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long <= LONG_FUNCTIONS


def test_the_way_of_a_sentence_is_short() -> None:
    """The tour walks it, with today's numbers of lines."""
    tour = (PACKAGE.parent / "docs" / "tour.md").read_text(encoding="utf-8")
    way = re.findall(r"^ *\d+\. \[`[\w/]+`\]\(\.\./transformer_mt/([\w/]+\.py)\) \((\d+) lines\)", tour, re.M)
    found = [(name, len((PACKAGE / name).read_text(encoding="utf-8").splitlines())) for name, _ in way]
    assert [(name, str(count)) for name, count in found] == way
    total = sum(count for _, count in found)
    assert f"\nTwelve files, {total:,} lines," in tour
    assert len(found) == 12 and total <= 2500


def walk_commands(command: Any, path: str) -> Iterator[tuple[str, set[str]]]:
    """Every command with its arguments and options. (The classes are Click's or Typer's own, by Typer's version.)"""
    names: set[str] = set()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names.add(parameter.metavar)
        else:
            names.update(option for option in [*parameter.opts, *parameter.secondary_opts] if option != "--help")
    yield path, names
    for name, child in getattr(command, "commands", {}).items():
        yield from walk_commands(child, f"{path} {name}")


def test_the_command_line_is_the_contract() -> None:
    """A command or an option may be added, here too; none may go."""
    found = dict(walk_commands(typer.main.get_command(app), "tmt"))
    assert found == {command: set(names.split()) for command, names in COMMANDS.items()}


def test_help_has_what_it_was_given() -> None:
    """All of it: the library that draws it takes words in square brackets for markup."""
    for command in ("eval", "train", "average", "export", "init"):
        output = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        shown = " ".join(word for word in output.split() if word not in "│|")
        for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
            assert " ".join(parameter.help.split()) in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "transformer_mt", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Usage" in done.stdout or transformer_mt.__version__ in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported  # the list is what we think it is
    assert {name for name in imported if name.split(".")[0] in HEAVY} == set()
    ours = {name for name in imported if name.startswith("transformer_mt.")}
    assert {name.split(".")[1] for name in ours} == {"cli", "errors", "system"}

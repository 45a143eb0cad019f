"""The examples of docs/serving.md: its commands with small models in place of the reader's, its environment without
PyTorch as it is installed there and in the container, its unit and its proxy by the programs that read them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, TIMEOUT_SECONDS, Trained, environment, free_port, is_served, serving, tmt_here
from ruamel.yaml import YAML
from test_serve import ask

pytest.importorskip("starlette")
pytest.importorskip("ctranslate2")

from transformer_mt.checkpoints.exports import check_export, write_list

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
COMMANDS = [shlex.split(line, comments=True) for kind, code in BLOCKS if kind == "sh" for line in code.splitlines()]
CONTAINER = (ROOT / "docs" / "serving" / "Containerfile").read_text(encoding="utf-8").splitlines()
REQUIREMENTS = ROOT / "docs" / "serving" / "requirements.txt"
ALONE = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
INSTALL_SECONDS = 200


def block(kind: str) -> str:
    [code] = [code for its_kind, code in BLOCKS if its_kind == kind]
    return str(code)


def of_program(name: str) -> list[list[str]]:
    return [command for command in COMMANDS if command[0] == name]


def run(*words: object, seconds: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=seconds, **options)


def export(trained: Trained, path: Path, source: str, target: str) -> Path:
    """Export the model as one of other languages."""
    tmt_here("export", trained.run, "--format", "ctranslate2", "--output", path).ok()
    facts = check_export(path)
    yaml = YAML()
    config = yaml.load(path / "config.yaml")
    config["data"] |= {"src_lang": source, "tgt_lang": target}
    yaml.dump(config, path / "config.yaml")
    (path / "export.json").unlink()
    write_list(path, {name: value for name, value in facts.items() if name not in ("transformer_mt", "files")})
    return path


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "runs").mkdir()
    fast = export(trained, folder / "fast", "en", "de")
    shutil.copytree(fast, folder / "runs" / "my")
    export(trained, folder / "runs" / "other", "de", "en")
    return folder


def test_every_command_is_known() -> None:
    """And run below, but for the container's, whose file is followed."""
    programs = {"tmt", "curl", "python3", "podman", "/opt/translate/bin/pip", "/opt/translate/bin/tmt"}
    assert {command[0] for command in COMMANDS} == programs
    build, start = of_program("podman")
    assert Path(ROOT, build[build.index("--file") + 1]).exists() and build[build.index("--tag") + 1] == start[-1]
    assert "--volume ./fast:/model:ro" in " ".join(start) and 'CMD ["/model"]' in CONTAINER
    assert "5000:5000" in " ".join(start) and "EXPOSE 5000" in CONTAINER


def test_servers_and_requests(folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")
    first, second = of_program("tmt")
    [expected] = tmt_here("translate", folder / "fast", stdin="a b c\n").ok().lines
    with serving(*paths(first, folder)) as (_, port):
        answers = [asked(command, port) for command in of_program("curl")]
    assert len(answers) == PAGE.count("\ncurl ")
    assert [one["translatedText"] for one in answers if "translatedText" in one] == [expected] * (len(answers) - 1)
    assert [list(one) for one in answers if "translatedText" not in one] == [["candidates"]]
    with serving(*paths(second, folder)) as (_, port):
        found = asked(["curl", "-s", "http://127.0.0.1:5000/languages"], port)
    assert [(one["code"], one["targets"]) for one in found] == [("de", ["en"]), ("en", ["de"])]


def paths(command: list[str], folder: Path) -> list[Path]:
    """The models that a command of the page serves."""
    assert command[:2] == ["tmt", "serve"]
    found = [folder / word for word in command[2:] if not word.startswith("--") and not word.isdigit()]
    assert all(path.is_dir() for path in found)
    return found


def asked(command: list[str], port: int) -> Any:
    """What a command of the page is answered, with words that the model knows."""
    words = [word.replace("5000", str(port)).replace("A dog runs.", "a b c").replace("▁Ein", "▁a") for word in command]
    return json.loads(run(*words, check=True).stdout)


def test_the_list_is_of_packages_that_are_tested() -> None:
    """Their names; the versions may be older than those that are here."""
    for line in REQUIREMENTS.read_text().splitlines():
        if not line.startswith("#"):
            name, _, number = line.partition("==")
            try:
                assert number and version(name)
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed here: is it a package?")


@pytest.fixture(scope="module")
def environment_of_container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the container's file installs, in an environment."""
    place, source = tmp_path_factory.mktemp("opt") / "tmt", tmp_path_factory.mktemp("src")
    run(sys.executable, "-m", "venv", place, check=True, seconds=INSTALL_SECONDS)
    for line in CONTAINER:
        word, *words = line.split()
        if word == "COPY":
            *files, target = words
            for file in files:
                to = source / target / (Path(file).name if target.endswith("/") else "")
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / file).is_dir():
                    shutil.copytree(ROOT / file, to)
                else:
                    shutil.copy(ROOT / file, to)
        elif word == "RUN":
            install(place, words, source)
    return place


def install(place: Path, words: list[str], folder: Path) -> None:
    assert words[0] == "pip" and "--no-deps" in words
    pip = [place / "bin" / "pip", *words[1:], "--no-compile", "--timeout", "10", "--retries", "1"]
    try:
        done = run(*pip, cwd=folder, seconds=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not answer within {INSTALL_SECONDS} seconds")
    if "NewConnectionError" in done.stderr or "ConnectTimeoutError" in done.stderr or "ReadTimeoutError" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def test_the_container_and_the_page_install_the_same() -> None:
    of_container = [line.split()[1:] for line in CONTAINER if line.startswith("RUN ")]
    assert of_container == [["pip", *command[1:]] for command in of_program("/opt/translate/bin/pip")]


@pytest.mark.timeout(3 * INSTALL_SECONDS)
def test_an_export_is_served_by_what_is_listed(folder: Path, environment_of_container: Path) -> None:
    programs, port = environment_of_container / "bin", free_port()
    [entry] = [json.loads(line.partition(" ")[2]) for line in CONTAINER if line.startswith("ENTRYPOINT ")]
    has_torch = "import importlib.util as util; print(util.find_spec('torch'))"
    assert run(programs / "python", "-c", has_torch, cwd=folder, env=ALONE, check=True).stdout == "None\n"
    command = [str(programs / entry[0]), *entry[1:], "fast", "--port", str(port)]
    [expected] = tmt_here("translate", folder / "fast", stdin="a b c\n").ok().lines
    with subprocess.Popen(command, cwd=folder, env=ALONE, stderr=subprocess.PIPE) as server:
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not is_served(port):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            wanted = {"source": "en", "target": "de"}
            assert ask(port, "/translate", q="a b c", **wanted) == {"translatedText": expected}
            found = ask(port, "/translate", q="<p>a <b>b</b> c", format="html", **wanted)["translatedText"]
            assert re.sub("</?[bp]>", "", found) == expected
            assert ask(port, "/explain", q="a b c", **wanted)["translatedText"] == expected
            assert ask(port, "/detect", q="Where is the railway station?")[0]["language"] in ("de", "en")
            assert [one["name"] for one in ask(port, "/languages")] == ["German", "English"]
            assert {"/translate", "/docs"} <= ask(port, "/openapi.json")["paths"].keys()
        finally:
            server.terminate()
        _, told = server.communicate(timeout=TIMEOUT_SECONDS)
    assert server.returncode == 0 and b"Traceback" not in told


def test_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    unit = block("ini")
    [command] = re.findall("^ExecStart=(.*)", unit, re.M)
    assert command.split()[:2] == of_program("/opt/translate/bin/tmt")[0][:2]
    file = tmp_path / "tmt-serve.service"
    file.write_text(unit.replace(command.split()[0], sys.executable))
    done = run("systemd-analyze", "verify", "--man=no", file)
    assert done.returncode == 0 and file.name not in done.stderr, done.stderr


def test_the_proxy(tmp_path: Path) -> None:
    """Its lines, by nginx; its bound of bodies is not below the server's own."""
    server = block("nginx")
    [kilobytes] = re.findall(r"client_max_body_size (\d+)k;", server)
    assert 1024 * int(kilobytes) >= 12 * 20_000 + (1 << 16)
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx is not there")
    key, certificate = tmp_path / "privkey.pem", tmp_path / "fullchain.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=translate.example"]
    run("openssl", "req", "-x509", *kind, "-keyout", key, "-out", certificate, check=True)
    server = server.replace("/etc/ssl/translate.example", str(tmp_path))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds) + "access_log off;\n"
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{places}{server}}}\n")
    done = run("nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr")
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr

"""`tmt report`: of runs that have ended in any way, what the page has is what the run and its model say."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from harness import ROOT, Done, Trained, metrics, tmt_here
from ruamel.yaml import YAML

from transformer_mt.checkpoints.run_directory import only_process_in
from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.loading import load_config, validate
from transformer_mt.evaluation.comet import COMMAND
from transformer_mt.evaluation.run_report import RunReport, describe_state
from transformer_mt.evaluation.run_report_page import summary

STATES = {
    "Finished: all 9 updates": TrainState(step=9),
    "no better bleu in 3 validations": TrainState(step=4, evals_without_improvement=3),
    "as its validation failed": TrainState(step=9, by_signal=True, awaits_validation=True),
    "Stopped by a signal at update 4 of 9": TrainState(step=4, by_signal=True),
    "stopped or crashed: the log has come to update 4 of 9; its last checkpoint is of update 2": TrainState(step=2),
    "before its first checkpoint": None,
}


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy, which may be damaged."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


def page_of(run: Path, *options: object) -> tuple[ElementTree.Element, Done]:
    output = run.parent / "page.html"
    done = tmt_here("report", run, "--output", output, *options).ok()
    assert not done.stdout and done.stderr.splitlines()[-1] == f"wrote {output}"
    page = output.read_text(encoding="utf-8")
    html = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))  # escaped, and all that is open is closed
    assert all(one.get("src", "").startswith("data:image/svg+xml;base64,") for one in html.iter("img"))
    assert "http" not in page and not {"script", "link"} & {one.tag for one in html.iter()}
    return html, done


def texts(html: ElementTree.Element) -> str:
    return " ".join(" ".join(html.itertext()).split())


def test_a_finished_run(trained: Trained, run: Path) -> None:
    html, done = page_of(run)
    shown = texts(html)
    assert done.stderr.count("\n") == 1 and "What is not here" not in shown
    assert "Finished: all 150 updates are done." in shown
    valid = next(record for record in metrics(run) if record["kind"] == "valid")
    assert f"150 (best) {valid['loss']:.4f} {valid['perplexity']:.2f} {valid['bleu']:.2f}" in shown
    assert f"bleu|{valid['signatures']['bleu']}" in shown
    titles = [one.get("alt", "").partition(" over the")[0] for one in html.iter("img")]
    assert {"Training loss", "Validation BLEU", "Target tokens a second"} <= {*titles}
    assert "2,000 pairs: 2,000 kept" in shown

    # The model's own translations, with their scores; the worst has the lowest chrF.
    sources = [line for line in Path(trained.config).with_name("valid.src").read_text().splitlines() if line]
    model = (
        "eval",
        run,
        "--src",
        trained.config.with_name("valid.src"),
        "--ref",
        trained.config.with_name("valid.tgt"),
    )
    assert all(line in shown for line in tmt_here(*model, "--metrics", "bleu,chrf").ok().lines)
    rows = [json.loads(line)["chrf"] for line in tmt_here(*model, "--sentence").ok().lines]
    sections = [one for one in html.iter("section") if one.find("h4") is not None]
    found = [one.findtext("h4", "") for one in sections]
    worst = min(range(len(rows)), key=rows.__getitem__)
    assert found[0] == f"line {worst + 1}: chrF2 {rows[worst]:.1f}" and len(found) == 10
    assert sections[0].findtext("dl/dd") == sources[worst]
    assert sum("attention of" in one.get("alt", "") for one in html.iter("img")) == 4

    changed, every = (one.text or "" for one in html.iter("pre"))
    config = load_config(run / "config.yaml", of_model=True)
    tree = YAML(typ="safe").load(changed)
    assert validate(tree, "") == config == validate(YAML(typ="safe").load(every), "")
    assert "search" in tree and "length_penalty" not in tree["search"]

    again, _ = page_of(run, "--lines", 4)
    assert "4 of 12 lines" in texts(again)
    numbers = {one.findtext("h4", "").split(": ")[0] for one in again.iter("section") if one.find("h4") is not None}
    assert numbers == {"line 1", "line 4", "line 7", "line 10"}


def test_runs_that_have_gone_wrong(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_process_in(run):
        assert "Training goes on; the log has come to update 150 of 150." in texts(page_of(run, "--lines", 0)[0])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        html, done = page_of(run)
    assert not [*html.iter("img")] and done.stderr.count("pip install 'transformer-mt[plots]'") == 2
    assert "Worst" in texts(html)

    (run / "checkpoints" / "step_00000150" / "model.safetensors").write_bytes(b"damaged")
    html, done = page_of(run)
    assert "warning: translations: " in done.stderr and "model.safetensors: cut short or changed" in texts(html)
    assert "Validation BLEU" in {one.get("alt", "").partition(" over the")[0] for one in html.iter("img")}

    for name in ("checkpoints", "best", "last"):
        shutil.rmtree(run / name) if name == "checkpoints" else (run / name).unlink()
    html, done = page_of(run)
    assert "Ended before its first checkpoint; the log has come to update 150 of 150." in texts(html)
    assert "warning: model, translations and attention: there is no checkpoint" in done.stderr
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").unlink()
    html, done = page_of(run)
    assert "None has been logged." in texts(html) and "warning: curves and speed: there is no metrics" in done.stderr


def test_text_that_is_gone_and_values_that_nobody_logs(run: Path) -> None:
    config = (run / "checkpoints" / "step_00000150" / "config.yaml").read_text().replace("valid.src", "gone.src")
    (run / "config.yaml").write_text(config.replace("cache_dir: ", "cache_dir: /nowhere"))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "valid", "step": 151, "loss": "x", "bleu": null, "signatures": 7, "seconds": []}\n')
        file.write('{"kind": "test", "step": 150, "bleu": 1.234, "text": "<b>"}\n{"kind": "tr')
    html, done = page_of(run)
    assert "gone.src" in done.stderr and "the prepared text is no longer in" in texts(html)
    assert "<b>, update 150 1.23" in texts(html)


@pytest.mark.parametrize("said", STATES)
def test_what_has_become_of_a_run(said: str) -> None:
    tree = {"data": {"src_lang": "a", "tgt_lang": "b", "train": [{"tsv": "x"}], "valid": [{"tsv": "y"}]}}
    config = validate({**tree, "train": {"max_steps": 9, "patience": 3}}, "")
    records = [{"kind": "train", "step": 4}]
    assert said in describe_state(config, records, STATES[said], is_going_on=False)
    assert "goes on" in describe_state(config, records, STATES[said], is_going_on=True)
    records.append({"kind": "not_finite", "step": 5})
    assert "not finite" in describe_state(config, records, STATES[said], is_going_on=False)
    report = RunReport(Path("x"), config, "", [], {2: {"ranks": 1}, 4: {"ranks": 1}, 6: {"ranks": 2}})
    assert [line for topic, line in summary(report) if "trained on" in topic] == ["ranks 1", "ranks 2"]


def test_a_run_of_several_languages_and_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests" / "golden")  # its configuration names text by its place there
    run = Path(shutil.copytree("run", tmp_path / "run"))
    html, _ = page_of(run, "--lines", 4)
    assert "lines of the validation text" in texts(html) and [*html.iter("figure")]


def test_comet_is_an_outside_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, command = tmp_path / "page.html", tmp_path / "bin" / COMMAND
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    refused = tmt_here("report", run, "--output", output, "--comet")
    assert refused.status == 2 and "pip install unbabel-comet" in refused.refusal and not output.exists()
    refused = tmt_here("report", run, "--output", output, "--comet", "--lines", "0")
    assert refused.refusal == "tmt: --comet: nothing is translated with --lines 0; remove one of the two"
    command.parent.mkdir()
    # As COMET's own: a line for each sentence, then the corpus. It counts the lines of the three files.
    command.write_text(
        '#!/bin/sh\necho "$@" > "$0.said"\n'
        'for file; do if [ -f "$file" ]; then n="$n$(grep -c "" < "$file")"; fi; done\n'
        'printf "t\\tSegment 0\\tscore: 0.1000\\nt\\tscore: 0.$n\\n"\n'
    )
    command.chmod(0o755)
    html, _ = page_of(run, "--comet")
    assert "COMET|model:Unbabel/wmt22-comet-da|nrefs:1 = 0.1212" in texts(html)  # 0.121212: twelve lines each
    said = command.with_suffix(".said").read_text()
    assert said.startswith("--model Unbabel/wmt22-comet-da --gpus ") and " -s /" in said and " -r /" in said
    command.write_text("#!/bin/sh\necho first >&2; echo no network >&2; exit 1\n")
    assert f"warning: COMET: {COMMAND}: failed (no network)" in page_of(run, "--comet")[1].stderr


def test_refusals(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = tmp_path / "page.html"
    output.write_text("what was there before")
    for arguments, reason in (
        ((tmp_path / "empty", "--output", output), "empty: not a run directory"),
        ((tmp_path / "nothing", "--output", output), "nothing: not a run directory"),
        ((run, "--output", tmp_path / "no" / "page.html"), "no directory"),
        ((run, "--output", tmp_path), "is a directory"),
    ):
        done = tmt_here("report", *arguments)
        assert done.status == 2 and reason in done.refusal
    (run / "config.yaml").write_text("data: 7")
    done = tmt_here("report", run, "--output", output)
    assert done.status == 2 and "data: should be a section" in done.refusal
    assert output.read_text() == "what was there before"
    assert (
        b"<!DOCTYPE html>" in tmt_here("report", ROOT / "tests/golden/run", "--output", "-", "--lines", 0).ok().stdout
    )

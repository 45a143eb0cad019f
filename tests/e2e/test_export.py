"""`tmt export`: a directory that is complete by itself and translates as `tmt translate` does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from harness import Trained, load_script, symbol_lines, tmt_here, write, write_config

from transformer_mt import __version__
from transformer_mt.checkpoints.manifest import sealed
from transformer_mt.decoding.translator import Translator

ctranslate2 = pytest.importorskip("ctranslate2")

# CTranslate2 has no other form of the length penalty, and stops by this rule.
COMMON = ("--set", "search.length_penalty_form=power", "--set", "search.stop=beam_finished")


@pytest.fixture(scope="module", params=["shared", "separate"])
def run(request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it makes mistakes, but different ones for different sources; vocabularies are one or two."""
    if request.param == "shared":
        return trained.run
    directory, config = tmp_path_factory.mktemp("export"), json.loads(trained.config.read_text())
    config["tokenizer"]["shared"] = False
    config["model"]["tie_embeddings"] = "target"
    tmt_here("train", write_config(directory / "config.yaml", config), "--output", directory / "run").ok()
    return directory / "run"


def translate(directory: Path, lines: Sequence[str]) -> list[str]:
    """With CTranslate2 and SentencePiece only."""
    names = ("source.model", "target.model") if (directory / "source.model").exists() else ("tokenizer.model",) * 2
    source, target = (sentencepiece.SentencePieceProcessor(str(directory / name)) for name in names)
    translator = ctranslate2.Translator(str(directory), intra_threads=1)
    results = translator.translate_batch(
        source.encode(list(lines), out_type=str),
        beam_size=4,
        length_penalty=0.6,
        min_decoding_length=0,
        disable_unk=True,
        suppress_sequences=[["<pad>"], ["<s>"]],
    )
    return [target.decode(result.hypotheses[0]) for result in results]


def test_translations_are_the_same(run: Path, tmp_path: Path) -> None:
    done = tmt_here("export", run, "--format", "ctranslate2", "--output", tmp_path / "out").ok()
    assert done.stdout == b""
    assert done.stderr.endswith(f"to {tmp_path / 'out'} (ctranslate2, float32)\n")
    lines = symbol_lines(40, seed=99, shortest=1, longest=8)
    text = "".join(f"{line}\n" for line in lines)
    expected = tmt_here("translate", run, "--beam-size", 4, "--length-penalty", 0.6, *COMMON, stdin=text).ok().lines
    assert translate(tmp_path / "out", lines) == expected
    assert len(set(expected)) > 30 and expected != lines


def test_int8_replaces_an_earlier_export(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for quantization in ("float32", "int8"):
        options: list[Any] = ["--format", "ctranslate2", "--quantization", quantization, "--output", out]
        tmt_here("export", run, *options).ok()
        assert json.loads((out / "export.json").read_text())["quantization"] == quantization
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(translate(out, ["a b c", "d"]))


def test_argos_package(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    package = tmp_path / "src_tgt.argosmodel"
    done = tmt_here("export", run, "--format", "argos", "--output", package)
    if (run / "source.model").exists():
        assert "two tokenizers" in done.refusal and list(tmp_path.iterdir()) == []
        return
    assert done.ok().stderr.endswith(f"to {package} (argos, float32)\n")
    content = package.read_bytes()
    for quantization in ("int8", "float32"):  # an earlier export is replaced
        tmt_here("export", run, "--format", "argos", "--quantization", quantization, "--output", package).ok()
    assert package.read_bytes() == content and list(tmp_path.iterdir()) == [package]

    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "transformer_mt-src_tgt"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    model = {f"model/{name}" for name in ("config.json", "model.bin", "shared_vocabulary.json")}
    assert names == model | {"metadata.json", "sentencepiece.model", "minisbd/patterns.onnx", "export.json"}
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["from_code"], metadata["to_code"], metadata["type"]) == ("src", "tgt", "translate")
    told = tmt_here("info", folder).ok().lines  # what is installed is known again
    assert told[0] == f"export      {folder}: argos, by transformer_mt {__version__}"
    shutil.copy(folder / "sentencepiece.model", folder / "model" / "tokenizer.model")
    lines = symbol_lines(40, seed=99, shortest=1, longest=8)
    text = "".join(f"{line}\n" for line in lines)
    expected = tmt_here("translate", run, "--beam-size", 4, "--length-penalty", 0.6, *COMMON, stdin=text).ok().lines
    assert translate(folder / "model", lines) == expected


def test_onnx_translates_the_same(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for _ in range(2):  # an earlier export is replaced
        done = tmt_here("export", run, "--format", "onnx", "--output", tmp_path / "out").ok()
    assert done.stderr.endswith(f"to {tmp_path / 'out'} (onnx, float32 and int8)\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    graphs = ("encoder_model", "encoder_model_quantized", "decoder_model_merged", "decoder_model_merged_quantized")
    tables = ("config", "generation_config", "tokenizer", "tokenizer_config", "export")
    assert names == {*(f"onnx/{name}.onnx" for name in graphs), *(f"{name}.json" for name in tables)}
    listed = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert list(listed) == sorted(names - {"export.json"})
    told = tmt_here("info", tmp_path / "out").ok().lines
    assert [line.partition(" ")[0] for line in told] == ["export", "files", "more"]
    lines = symbol_lines(40, seed=99, shortest=1, longest=8)
    text = "".join(f"{line}\n" for line in lines)
    expected = tmt_here("translate", run, "--beam-size", 1, stdin=text).ok().lines
    translate_by_onnx = load_script("compare_exports").by_onnxruntime(tmp_path / "out")
    assert translate_by_onnx(lines) == expected
    assert len(set(expected)) > 30 and expected != lines


def test_refusals(run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = tmt_here("export", *arguments)
        assert (done.status, done.stdout, list(tmp_path.iterdir())) == (2, b"", [])
        return done.refusal

    out = ("--output", tmp_path / "out")
    formats = "ctranslate2, marian, pegasus, onnx and argos"
    assert f"--format tflite: not one of {formats}" in refused(run, "--format", "tflite", *out)
    assert "leave it out" in refused(run, "--format", "onnx", "--quantization", "int8", *out)
    assert "--format" in refused(run, *out)
    assert "--output" in refused(run, "--format", "ctranslate2")
    chosen = ("--format", "ctranslate2")
    assert "--quantization int4: not one of float32, bfloat16, int8" in refused(
        run, *chosen, "--quantization", "int4", *out
    )
    assert "no such model directory" in refused(tmp_path / "none", *chosen, *out)
    assert "something else than an earlier export" in refused(run, *chosen, "--output", run)
    assert "are named *.argosmodel" in refused(run, "--format", "argos", *out)


# CTranslate2 as an engine of `tmt`


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "out"
    tmt_here("export", run, "--format", "ctranslate2", "--output", output).ok()
    return output


WITHOUT_TORCH = """
import sys
from transformer_mt.cli.main import main
try:
    main()
finally:
    assert "ctranslate2" in sys.modules and "torch" not in sys.modules
"""


def test_tmt_translates_with_an_export(run: Path, exported: Path) -> None:
    """Line by line as with the model itself: blank lines, one that is split, alternatives, the end of a long file."""
    short = symbol_lines(60, seed=98, shortest=1, longest=8)
    lines = [*short, "", " ", " ".join(short[:8])]
    text = "".join(f"{line}\n" for line in lines)
    model, export = (tmt_here("translate", *MODEL, stdin=text).ok() for MODEL in ((run, *COMMON), (exported,)))
    pairs = list(zip(model.lines, export.lines, strict=True))
    # What does not end by itself is cut off a little later, and without </s>.
    assert len(pairs) == 63 and sum(ours != theirs for ours, theirs in pairs if len(ours) < 80) == 0
    assert sum(len(ours) < 80 for ours, _ in pairs) > 55 and export.stderr == model.stderr
    assert "translated in " in export.stderr
    command = [sys.executable, "-c", WITHOUT_TORCH, "translate", str(exported), "--line-buffered"]
    done = subprocess.run(command, input="\n".join(lines[:3]), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == export.lines[:3]  # whatever stands beside them, and on whatever it is computed
    greedy = ("--beam-size", 1, "--json")
    model, export = (tmt_here("translate", *MODEL, *greedy, stdin=text).ok() for MODEL in ((run, *COMMON), (exported,)))
    for ours, theirs in zip(map(json.loads, model.lines), map(json.loads, export.lines), strict=True):
        if len(ours["tokens"]) < 30:  # <unk> and <pad> have some probability yet, which theirs gives to the others
            assert theirs["tokens"] == ours["tokens"] and theirs["score"] == pytest.approx(ours["score"], abs=0.05)
    listed = tmt_here("translate", exported, "--n-best", 2, stdin=text).ok().lines
    assert len(listed) == 2 * 61 + 2  # blank lines have one
    prefixes = ["x " * (1 + 40 * (i % 3 == 1)) if line.strip() else "" for i, line in enumerate(lines)]
    path = write(exported.parent / "prefixes", prefixes)
    starts = tmt_here("translate", exported, "--prefix", str(path), stdin=text).ok().lines
    assert all(line.startswith(prefix.strip()) for line, prefix in zip(starts, prefixes[:62], strict=False))
    assert not any(starts[60:62])


def test_single_lines_are_answered_before_the_next_is_read(exported: Path) -> None:
    num_read = 0

    def lines() -> Iterator[str]:
        nonlocal num_read
        for line in ("a b", "c d", "e f"):
            num_read += 1
            yield line

    with Translator.load(exported) as translator:
        for number, _ in enumerate(translator.stream(lines(), chunk_lines=1), 1):
            assert num_read == number


def test_an_export_explains_as_the_model_does(run: Path, exported: Path) -> None:
    line = " ".join(symbol_lines(1, seed=97, shortest=6, longest=6))
    with (
        Translator.load(run, ["search.beam_size=1"]) as model,
        Translator.load(exported, ["search.beam_size=1"]) as export,
    ):
        ours, theirs = (translator.explain([f"{line}\n\n{line}"])[0] for translator in (model, export))
        assert theirs.text == ours.text == theirs.before + "".join(part.text + part.after for part in theirs.parts)
        tokens, same = ours.parts[0].tokens, theirs.parts[1].tokens
        assert [token[:3] for token in same] == [token[:3] for token in tokens]
        assert [token.log_prob for token in same] == pytest.approx([token.log_prob for token in tokens], abs=1e-3)
        for position in (0, 2, len(tokens)):
            prefix = [token.piece for token in tokens[:position]]
            [ours_next], [theirs_next] = (one.candidates([line], prefix, 5) for one in (model, export))
            assert [one.piece for one in theirs_next] == [one.piece for one in ours_next]
            expected = [one.log_prob for one in ours_next]
            assert [one.log_prob for one in theirs_next] == pytest.approx(expected, abs=1e-3)
            [chosen] = export.explain([line], prefix=[*prefix, theirs_next[-1].piece])
            assert chosen.text == theirs_next[-1].text
            assert chosen.parts[0].tokens[position].log_prob == pytest.approx(expected[-1], abs=1e-3)


def test_an_export_finds_as_many_translations_as_are_asked_for(exported: Path) -> None:
    lines = symbol_lines(5, seed=98)
    with Translator.load(exported) as asked, Translator.load(exported, ["search.n_best=2"]) as always:
        assert asked.translate(lines, n_best=2) == always.translate(lines)
        assert asked.translate(lines) == always.translate(lines, n_best=1)


def test_what_ends_by_itself_is_not_cut(exported: Path) -> None:
    """Its limits are multiples of 16."""
    for least, ends in ((0, {True, False}), (30, {True})):
        with Translator.load(exported, ["search.max_extra_tokens=0", f"search.min_tokens={least}"]) as export:
            found = export.translate(symbol_lines(40, seed=98, shortest=1, longest=8))
        found = [one for one in found if one.num_source_tokens <= 16]
        assert all(one.is_cut == (len(one.tokens) == 16) for one in found) and {one.is_cut for one in found} <= ends


def test_tmt_scores_with_an_export(run: Path, exported: Path, tmp_path: Path) -> None:
    src, tgt = tmp_path / "src", tmp_path / "tgt"
    src.write_text("".join(f"{line}\n" for line in ["", *symbol_lines(30, seed=97, shortest=1, longest=8)]))
    tgt.write_text("".join(f"{line}\n" for line in ["", *symbol_lines(30, seed=96, shortest=1, longest=8)]))
    ours, theirs = (tmt_here("score", model, "--src", src, "--tgt", tgt).ok().lines for model in (run, exported))
    assert theirs[0] == ours[0] == "" and len(theirs) == 31
    assert [float(one) for one in theirs[1:]] == pytest.approx([float(one) for one in ours[1:]], abs=1e-3)
    ours, theirs = (
        tmt_here("score", model, "--src", src, "--tgt", tgt, "--tokens").ok().lines for model in (run, exported)
    )
    for our, their in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert their["tokens"] == our["tokens"] and their["log_probs"] == pytest.approx(our["log_probs"], abs=1e-3)
    # What the model makes is the reference: the export makes the same of nearly all lines.
    tmt_here("translate", run, *COMMON, "--input", src, "--output", tgt).ok()
    found = tmt_here("eval", exported, "--src", src, "--ref", tgt).ok().lines
    assert float(found[0].split(" = ")[1].split()[0]) > 95


def test_what_an_export_cannot_do_is_refused(run: Path, exported: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = tmt_here(*arguments, stdin="a b\n")
        assert (done.status, done.stdout) == (2, b"")
        return done.refusal

    set_to = ("translate", exported, "--set")
    assert "search.sampling: not in CTranslate2" in refused(*set_to, "search.sampling=true")
    assert "search.stop: bound: not in CTranslate2" in refused(*set_to, "search.stop=bound")
    assert "search.length_penalty_form: gnmt" in refused(*set_to, "search.length_penalty_form=gnmt")
    assert "exports tell no attention" in refused("translate", exported, "--align")
    assert "exports do not tell it" in refused(
        *("plot", "attention", exported, "--src", "a", "--output", tmp_path / "a.png")
    )
    assert "CTranslate2 runs one model" in refused("translate", exported, "--ensemble", exported)
    assert "not a model" in refused("translate", run, "--ensemble", exported)
    damaged = tmp_path / "damaged"
    shutil.copytree(exported, damaged)
    weights = bytearray((damaged / "model.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (damaged / "model.bin").write_bytes(weights)
    assert "model.bin: damaged" in refused("translate", damaged)
    facts = json.loads((exported / "export.json").read_text())
    earlier = {key: value for key, value in facts.items() if key not in ("longest_src_tokens", "tags", "sha256")}
    shutil.copytree(exported, tmp_path / "earlier")
    (tmp_path / "earlier" / "export.json").write_bytes(sealed(earlier))
    assert "as in exports of earlier versions; export the model again" in refused("translate", tmp_path / "earlier")
    (tmp_path / "earlier" / "export.json").write_bytes(sealed({**earlier, "format": "onnx"}))
    assert "an export for onnx, which tmt does not run" in refused("translate", tmp_path / "earlier")

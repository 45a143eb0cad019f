"""`tmt info`: what a model tells of itself without being loaded. The models are those of 0.1.0 (`tests/golden`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import tmt_here
from torch import nn

from transformer_mt.checkpoints.description import describe, parameters
from transformer_mt.checkpoints.exports import describe_export, exported_directory, is_export
from transformer_mt.checkpoints.manifest import sealed
from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.kinds import new_model
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.model.transformer import FeedForward, Transformer

GOLDEN = Path(__file__).parents[2] / "golden"
STEP = "step_00000600"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))


def test_a_run_tells_of_its_best_checkpoint(run: Path) -> None:
    facts = describe(run)
    assert facts["kind"] == "run" and facts["model_directory"] == str(run / "checkpoints" / STEP)
    assert facts["run"]["checkpoints"] == [600]
    assert facts["run"]["best"] == facts["run"]["last"] == STEP
    assert facts["run"]["bytes"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert facts["languages"] == {
        "directions": [["en", "de"], ["en", "fr"]],
        "tags": ["<2de>", "<2fr>"],
        "domains": ["<law>"],
    }
    table = json.loads((run / "vocab.json").read_text(encoding="utf-8"))
    assert facts["vocabulary"] == {"type": "bpe", "shared": True, "source": len(table), "target": len(table)}
    training = facts["training"]
    assert training["sources"] == [f"text/{name}.src + text/{name}.tgt" for name in ("de", "fr", "law")]
    assert (training["step"], training["max_steps"], training["max_tokens"], training["seed"]) == (600, 600, 256, 1)
    assert training["environment"]["precision"] == "float32"
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    [last] = [one for one in logged if (one["kind"], one["step"]) == ("valid", 600)]
    assert facts["scores"] == {
        "step": 600,
        "text": ["text/valid.src + text/valid.tgt"],
        "beam_size": 1,
        "from": "metrics.jsonl",
        "values": {name: last[name] for name in ("loss", "perplexity", "bleu", "chrf")},
        "signatures": last["signatures"],
    }


def test_checkpoints_behind_a_link_are_their_run_s(run: Path, tmp_path: Path) -> None:
    """Moved to a larger disk; and a name of one's own for a checkpoint."""
    before = describe(run)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    facts = describe(run)
    assert {**facts, "run": {**facts["run"], "bytes": 0}} == {**before, "run": {**before["run"], "bytes": 0}}
    (tmp_path / "elsewhere").rename(tmp_path / "back")
    (run / "checkpoints").unlink()
    (tmp_path / "back").rename(run / "checkpoints")
    (tmp_path / "mine").symlink_to(run / "checkpoints" / STEP)
    assert describe(tmp_path / "mine")["run"] == before["run"]


def test_a_checkpoint_without_its_run_has_the_score_in_its_state(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run / "checkpoints" / STEP, alone)
    facts = describe(alone)
    assert facts["kind"] == "checkpoint" and "run" not in facts
    state = json.loads((alone / "state.json").read_text(encoding="utf-8"))
    assert (facts["scores"]["from"], facts["scores"]["values"]) == ("state.json", {"bleu": state["best_score"]})


def test_an_averaged_model_has_no_state_and_no_scores() -> None:
    facts = describe(GOLDEN / "averaged")
    assert facts["kind"] == "averaged model"
    assert not facts.keys() & {"run", "scores"}
    assert not facts["training"].keys() & {"step", "environment"}
    assert not facts["vocabulary"]["shared"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "pre", "positions": "learned", "max_positions": 40, "tie_embeddings": "none"},
        {"attention_bias": True, "tie_embeddings": "target", "d_k": 3, "d_v": 5},
    ],
)
def test_parameters_by_place_and_by_use(options: dict[str, Any]) -> None:
    shape = dict(d_model=8, d_ff=12, num_heads=2, num_encoder_layers=2, num_decoder_layers=1)
    model = Transformer(ModelConfig(**(shape | options)), 30, 30)
    found = parameters({name: list(parameter.shape) for name, parameter in model.named_parameters()})

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for parameter in {p for one in modules for p in one.parameters()})

    kinds = {"attention": MultiHeadAttention, "feed-forward": FeedForward, "norms": nn.LayerNorm}
    expected = {use: count(*(m for m in model.modules() if isinstance(m, kind))) for use, kind in kinds.items()}
    expected["embeddings and output"] = count(
        *(m for m in model.modules() if isinstance(m, nn.Embedding)), model.generator
    )
    assert found["by_use"] == expected
    assert found["by_place"]["encoder"] == count(model.encoder)
    assert found["by_place"]["decoder"] == count(model.decoder)
    assert found["total"] == sum(found["by_place"].values()) == count(model)


def test_parameters_of_a_recurrent_model() -> None:
    options: dict[str, Any] = dict(kind="recurrent", d_model=8, num_encoder_layers=2, num_decoder_layers=2)
    model = new_model(ModelConfig(**options), 30, 30)
    assert isinstance(model, Recurrent) and model.attention is not None
    found = parameters({name: list(parameter.shape) for name, parameter in model.named_parameters()})
    assert found["by_use"]["attention"] == sum(p.numel() for p in model.attention.parameters())
    assert found["by_use"]["embeddings and output"] == 30 * 8
    assert found["by_place"]["encoder"] == sum(p.numel() for p in model.encoder.parameters())
    assert found["by_use"].keys() == {"attention", "embeddings and output", "recurrence"}
    assert sum(found["by_use"].values()) == found["total"] == sum(p.numel() for p in model.parameters())


def lines(*arguments: object) -> list[str]:
    return tmt_here("info", *arguments).ok().lines


def test_what_it_prints(run: Path) -> None:
    printed = lines(run)
    assert printed[0] == f"run         {run}"
    assert "parameters  10,544; source, target and output share one matrix" in printed
    assert "            tags before a source: <2de> <2fr> <law>" in printed
    assert "scores      loss 0.5843, perplexity 1.79, bleu 6.91, chrf 36.71 (metrics.jsonl, step 600)" in printed
    assert "            bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0" in printed
    assert json.loads("\n".join(lines(run, "--json"))) == describe(run)
    assert "scores      none recorded" in lines(GOLDEN / "averaged")


def test_pytorch_is_not_loaded(run: Path) -> None:
    program = "import sys; sys.argv[0] = 'tmt'; from transformer_mt.cli.main import main; import atexit\n"
    program += "atexit.register(lambda: print('torch' in sys.modules)); main()"
    done = subprocess.run([sys.executable, "-c", program, "info", str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def cut(run: Path) -> None:
    path = run / "checkpoints" / STEP / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def scramble_header(run: Path) -> None:
    path = run / "checkpoints" / STEP / "model.safetensors"
    path.write_bytes(b"x" * path.stat().st_size)


def remove(name: str) -> Any:
    return lambda run: (run / "checkpoints" / STEP / name).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "model.safetensors: cut short or changed"),
        (scramble_header, "model.safetensors: damaged, or no safetensors file"),
        (remove("vocab.json"), "vocab.json: missing"),
        (remove("manifest.json"), "not a model"),
        (lambda run: (run / "best").write_text("elsewhere"), "best: damaged"),
        (lambda run: (run / "last").write_bytes(b"\xff"), "last: damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("?\n{}\n"), "metrics.jsonl, line 1"),
    ],
)
def test_damage_is_one_line(run: Path, damage: Any, reason: str) -> None:
    damage(run)
    done = tmt_here("info", run)
    assert done.status == 2 and not done.stdout
    assert reason in done.refusal


def test_what_a_later_version_may_have_is_no_reason_to_refuse(run: Path) -> None:
    """A kind of source, a key and a value in a record that this version does not know."""
    checkpoint = run / "checkpoints" / STEP
    config = (checkpoint / "config.yaml").read_text(encoding="utf-8")
    changed = config.replace("src: text/law.src", "dream: law").replace("tgt: text/law.tgt", "depth: 2")
    assert "dream" in changed and "depth" in changed
    (checkpoint / "config.yaml").write_text(changed, encoding="utf-8")
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"]["config.yaml"]["bytes"] = len(changed.encode())
    (checkpoint / "manifest.json").write_bytes(sealed(manifest))
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as log:
        log.write('{"kind": "valid", "step": 600, "loss": 1.5, "note": ["?"], "signatures": "none"}\n')
    facts = describe(run)
    assert facts["training"]["sources"][-1] == "a source that this version does not know"
    assert (facts["scores"]["values"], facts["scores"]["signatures"]) == ({"loss": 1.5}, {})


def test_an_export_tells_what_it_lists(tmp_path: Path) -> None:
    with exported_directory(tmp_path / "out", {"format": "ctranslate2", "quantization": "int8"}) as directory:
        (directory / "model.bin").write_bytes(b"1234")
        (directory / "shared_vocabulary.json").write_text('["a", "b"]')
    facts = describe_export(tmp_path / "out")
    assert facts["files"] == {"model.bin": 4, "shared_vocabulary.json": 10}
    assert facts["vocabulary"] == {"shared": 2}
    assert "weights     int8, 0.0 kB" in lines(tmp_path / "out")
    (tmp_path / "out" / "model.bin").unlink()
    with pytest.raises(InputError, match=r"model\.bin: missing"):
        describe_export(tmp_path / "out")


def test_an_earlier_export_tells_what_it_lists(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"1234")
    facts = {"transformer_mt": "0.1.0", "format": "ctranslate2", "quantization": "int8", "files": ["model.bin"]}
    (tmp_path / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    assert describe_export(tmp_path)["files"] == {"model.bin": 4}
    assert "weights     int8, 0.0 kB" in lines(tmp_path)


@pytest.mark.parametrize("facts", ['{"transformer_mt": "1", "made_by": "tmt data clean", "files": []}', "[]", ""])
def test_what_is_no_model_is_refused(tmp_path: Path, facts: str) -> None:
    (tmp_path / "export.json").write_text(facts)
    assert not is_export(tmp_path)
    assert "not a model" in tmt_here("info", tmp_path).refusal

"""What is averaged: which checkpoints, of one run only, what is told about them, and whether the mean is of use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import copy_corpus, tmt_here

from transformer_mt.checkpoints import run_directory
from transformer_mt.checkpoints.saver import Saver, training_tensors
from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.loading import load_config, validate
from transformer_mt.config.sections import Config
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.errors import InputError
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.training.averaging import average
from transformer_mt.training.optim import adam


class Runs:
    """Makes checkpoints of a model that has learned nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.settings = directory, copy_corpus(directory, num_valid=3)
        config = self.config()
        lines = [src for source in config.data.train for src, _ in read_pairs(source, "src", "tgt")]
        tokenizer, _ = train_tokenizer(lines, config.tokenizer)
        self.tokenizers = Tokenizers(tokenizer, tokenizer)

    def config(self, **changes: dict[str, Any]) -> Config:
        tree = {name: {**section, **changes.get(name, {})} for name, section in self.settings.items()}
        return validate(tree, "test")

    def save(self, name: str, step: int, corpus: str = "c", by_signal: bool = False, **changes: Any) -> Path:
        config, run = self.config(**changes), self.directory / name
        torch.manual_seed(step)
        model = Transformer(config.model, self.tokenizers.src.vocab_size, self.tokenizers.tgt.vocab_size)
        optimizer = adam(model.parameters(), config.optim)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        saver = Saver(run, config, self.tokenizers, 9)
        state = TrainState(step=step, corpus=corpus, by_signal=by_signal)
        saver.save(dict(model.named_parameters()), training_tensors(optimizer, model), state, is_best=step == 10)
        saver.wait()
        saver.close()
        return run_directory.checkpoint_path(run, step)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("runs"))
    for step in (10, 20, 30):
        made.save("run", step)
    return made


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": {"seed": 2}}, "differ in train.seed"),
        ({"optim": {"lr": 0.1}}, "differ in optim.lr"),
        ({"train": {"init_from": "elsewhere"}}, "differ in train.init_from"),
        ({"corpus": "d"}, "trained on different text"),
    ],
)
def test_models_of_other_runs_are_refused(changes: dict[str, Any], key: str, runs: Runs) -> None:
    other = runs.save("other", 10, **changes)
    with pytest.raises(InputError, match=key):
        average([runs.directory / "run", other], runs.directory / "mean")
    assert not (runs.directory / "mean").exists()


def test_a_run_may_be_continued_with_other_free_settings(runs: Runs) -> None:
    runs.save("continued", 10)
    runs.save("continued", 20, train={"max_steps": 99, "init_from": None}, search={"beam_size": 1})
    average([runs.directory / "continued"], runs.directory / "mean")
    config = load_config(runs.directory / "mean" / "config.yaml", of_model=True)
    assert config.train.max_steps == 99, "the newest one's configuration"


def test_an_averaged_model_of_the_same_run_is_of_one_run(runs: Runs) -> None:
    run, mean = runs.directory / "run", runs.directory / "mean"
    average([run], mean)
    average([mean, run], runs.directory / "mean2", last=1)
    other = runs.save("other", 10, data={"train": runs.settings["data"]["valid"]})
    with pytest.raises(InputError, match=r"differ in data\.train"):
        average([mean, other], runs.directory / "mean2")


def test_last_is_for_runs_and_nothing_is_there_twice(runs: Runs) -> None:
    run, output = runs.directory / "run", runs.directory / "none"
    found = tmt_here(
        "average", run / "checkpoints/step_00000010", run / "checkpoints/step_00000020", "--last", 1, "--output", output
    )
    assert found.status == 2 and "--last: is for a run" in found.refusal
    with pytest.raises(InputError, match="twice"):
        average([run, run / "checkpoints" / "step_00000030"], output)
    assert not output.exists()


def test_a_run_without_checkpoints_is_not_told_to_lower_what_nobody_gave(runs: Runs) -> None:
    runs.save("stopped", 10, by_signal=True)
    with pytest.raises(InputError, match="no checkpoint to average") as refused:
        average([runs.directory / "stopped"], runs.directory / "none")
    assert "--last" not in str(refused.value)


@pytest.mark.parametrize(("kind", "name"), [("valid", "validation"), ("train", "training")])
def test_a_loss_that_still_fell_is_warned_of(kind: str, name: str, runs: Runs) -> None:
    run, told = runs.directory / "run", list[str]()
    losses = {5: 3.0, 10: 2.0, 20: 1.95, 30: 1.85}
    records = [{"kind": "train", "step": 20, "loss": 1.0}] * (kind == "valid")
    records += [{"kind": kind, "step": step, "loss": loss} for step, loss in losses.items()]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    average([run], runs.directory / "mean", told.append)
    assert f"the {name} loss fell from 2.00 at step 10 to 1.85 at step 30" in told[-1]
    told.clear()
    average([run], runs.directory / "mean", told.append, last=2)
    assert not any("warning" in line for line in told), "0.1 nats are not more than that"


def test_the_mean_and_the_best_are_scored_on_the_validation_text(runs: Runs) -> None:
    run, output = runs.directory / "run", runs.directory / "mean"
    done = tmt_here("average", run, "--last", 1, "--validate", "--output", output)
    scores = {line.partition(": ")[0]: line.partition(": ")[2] for line in done.ok().stderr.splitlines()}
    mean, best = (
        scores[f"the mean, {output}"],
        scores[f"the best so far, {(run / 'checkpoints/step_00000010').resolve()}"],
    )
    assert mean.startswith("loss ") and "bleu " in mean and best.startswith("loss ") and best != mean
    done = tmt_here("average", output, "--validate", "--output", runs.directory / "none")
    assert done.status == 2 and "does not lie in a run" in done.refusal

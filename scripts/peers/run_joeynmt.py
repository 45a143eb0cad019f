"""JoeyNMT: its own `joeynmt train`. Only the labels of a batch are counted here, and the clock is the optimizer's.

It has no buckets: sentences of all lengths share a batch, and `batch_size` counts the padded positions of the longer
side.
"""

from __future__ import annotations

import json
import sys

import joeynmt
import steady
from joeynmt.__main__ import main as joeynmt_main
from joeynmt.training import TrainManager

# Two batches an update are faster than one; padded positions of each that hold about 2,000 labels.
BATCH_SIZE, NUM_BATCHES = 4600, 2


def configuration(run: steady.Run) -> dict[str, object]:
    shape = run.shape
    side = {
        "type": "transformer",
        "num_layers": shape["layers"],
        "num_heads": shape["heads"],
        "embeddings": {"embedding_dim": shape["d_model"], "scale": True, "dropout": shape["dropout"]},
        "hidden_size": shape["d_model"],
        "ff_size": shape["d_ff"],
        "dropout": shape["dropout"],
        "layer_norm": "post",
    }
    text = {"level": "word", "max_length": 256, "voc_file": f"{run.data}/vocab.txt"}
    return {
        "name": "bench",
        "model_dir": f"{run.work}/model",
        "use_cuda": False,
        "fp16": False,
        "data": {
            "train": f"{run.data}/train",
            "dev": f"{run.data}/valid",
            "dataset_type": "plain",
            "src": {"lang": "en", **text},
            "trg": {"lang": "de", **text},
        },
        "model": {"tied_embeddings": True, "tied_softmax": True, "encoder": side, "decoder": side},
        "training": {
            "optimizer": "adam",
            "adam_betas": list(steady.BETAS),
            "learning_rate": shape["lr"],
            "learning_rate_min": 0.0,
            "scheduling": "exponential",  # by this factor each epoch: constant
            "decrease_factor": 1.0,
            "label_smoothing": steady.LABEL_SMOOTHING,
            "normalization": "tokens",
            "batch_type": "token",
            "batch_size": BATCH_SIZE,
            "batch_multiplier": NUM_BATCHES,
            "epochs": 1000,
            "logging_freq": 100,
            "validation_freq": 10_000,
        },
        "testing": {"beam_size": 1},
    }


def main() -> None:
    run = steady.Run("JoeyNMT", joeynmt.__version__)
    train_step = TrainManager._train_step

    def counted(self, batch):  # type: ignore[no-untyped-def]
        loss, correct = train_step(self, batch)
        run.count(int(batch.ntokens), loss * NUM_BATCHES)
        return loss, correct

    TrainManager._train_step = counted
    config = run.work / "config.yaml"
    config.write_text(json.dumps(configuration(run)), encoding="utf-8")  # JSON is YAML
    sys.argv = ["joeynmt", "train", str(config), "--skip-test"]
    joeynmt_main()


if __name__ == "__main__":
    main()

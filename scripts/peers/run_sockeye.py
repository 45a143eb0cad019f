"""Sockeye: its own `sockeye-train`. Only the labels of a batch are counted here, and the clock is the optimizer's."""

from __future__ import annotations

import json
import sys

import sockeye
import steady
from sockeye import constants, train
from sockeye.training import EarlyStoppingTrainer


def options(run: steady.Run) -> dict[str, object]:
    shape = run.shape
    return {
        "source": run.data / "train.en",
        "target": run.data / "train.de",
        "validation-source": run.data / "valid.en",
        "validation-target": run.data / "valid.de",
        "source-vocab": run.work / "vocab.json",
        "target-vocab": run.work / "vocab.json",
        "output": run.work / "model",
        "num-layers": shape["layers"],
        "transformer-model-size": shape["d_model"],
        "transformer-attention-heads": shape["heads"],
        "transformer-feed-forward-num-hidden": shape["d_ff"],
        "transformer-preprocess": "",
        "transformer-postprocess": "drn",  # dropout, residual, norm: post-norm
        "weight-tying-type": "src_trg_softmax",
        "embed-dropout": shape["dropout"],
        "transformer-dropout-prepost": shape["dropout"],
        "transformer-dropout-attention": 0.0,
        "transformer-dropout-act": 0.0,
        "label-smoothing": steady.LABEL_SMOOTHING,
        "label-smoothing-impl": "torch",
        "optimizer-betas": "{}:{}".format(*steady.BETAS),
        "initial-learning-rate": shape["lr"],
        "batch-type": "word",
        "batch-size": steady.UPDATE_TOKENS,
        "batch-sentences-multiple-of": 1,
        "bucket-width": 2,
        "max-seq-len": 256,
        "checkpoint-interval": 10_000,
        "max-updates": 10_000,
    }


def main() -> None:
    run = steady.Run("Sockeye", sockeye.__version__)
    forward_backward = EarlyStoppingTrainer._forward_backward

    def counted(self, batch, *args):  # type: ignore[no-untyped-def]
        losses, num_samples = forward_backward(self, batch, *args)
        labels = int((batch.labels[constants.TARGET_LABEL_NAME] != constants.PAD_ID).sum())
        run.count(labels, losses[0].item())
        return losses, num_samples

    EarlyStoppingTrainer._forward_backward = counted
    pieces = (run.data / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    (run.work / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    flags = [text for key, value in options(run).items() for text in (f"--{key}", str(value))]
    sys.argv = ["sockeye-train", "--use-cpu", "--shared-vocab", "--overwrite-output", *flags]
    train.main()


if __name__ == "__main__":
    main()

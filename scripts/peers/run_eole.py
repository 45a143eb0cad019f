"""Eole: its own `eole train`. Only the labels of a batch are counted here, and the clock is the optimizer's.

Its decoder is pre-norm whatever is asked for. A batch is filled up to `batch_size` padded positions of the longer
side, and a source that is already in the batch is left out.
"""

from __future__ import annotations

import json
import sys

import eole
import steady
from eole.bin.main import main as eole_main
from eole.trainer import BatchProcessor

# Padded positions that hold about 3,950 labels.
BATCH_SIZE = 4850


def configuration(run: steady.Run) -> dict[str, object]:
    shape = run.shape
    corpora = {
        name: {"path_src": f"{run.data}/{name}.en", "path_tgt": f"{run.data}/{name}.de"} for name in ("train", "valid")
    }
    return {
        "data": corpora,
        "src_vocab": f"{run.data}/vocab.txt",
        "share_vocab": True,
        "pad_token": "<pad>",
        "seed": 1,
        "report_every": 100,
        "model": {
            "architecture": "transformer",
            "hidden_size": shape["d_model"],
            "transformer_ff": shape["d_ff"],
            "heads": shape["heads"],
            "layers": shape["layers"],
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "generator_bias": False,
            "add_ffnbias": True,
            "embeddings": {
                "word_vec_size": shape["d_model"],
                "position_encoding": True,
                "position_encoding_type": "SinusoidalInterleaved",
            },
        },
        "training": {
            "model_path": f"{run.work}/model",
            "batch_type": "tokens",
            "batch_size": BATCH_SIZE,
            "normalization": "tokens",
            "bucket_size": 29_000,  # an epoch
            "num_workers": 0,
            "compute_dtype": {"float32": "fp32", "bfloat16": "bf16"}[run.precision],
            "optim": "adam",
            "adam_beta2": steady.BETAS[1],
            "learning_rate": shape["lr"],
            "max_grad_norm": 0,
            "param_init_method": "xavier_uniform",
            "label_smoothing": steady.LABEL_SMOOTHING,
            "dropout": [shape["dropout"]],
            "attention_dropout": [0.0],
            "log_attention_entropy": False,
            "train_steps": 10_000,
            "valid_steps": 10_000,
            "save_checkpoint_steps": 10_000,
        },
    }


def main() -> None:
    run = steady.Run("Eole", eole.__version__)
    compute_loss = BatchProcessor._compute_loss

    def counted(self, src, tgt, src_len, batch, *args):  # type: ignore[no-untyped-def]
        loss, stats = compute_loss(self, src, tgt, src_len, batch, *args)
        labels = int((tgt[:, 1:] != self.train_loss.padding_idx).sum())  # without <s>
        run.count(labels, stats.loss / stats.n_tokens)
        return loss, stats

    BatchProcessor._compute_loss = counted
    config = run.work / "config.yaml"
    config.write_text(json.dumps(configuration(run)), encoding="utf-8")  # JSON is YAML
    sys.argv = ["eole", "train", "-config", str(config)]
    eole_main()


if __name__ == "__main__":
    main()

"""A model as a directory that transformers.js runs in a browser or in Node: ONNX graphs, a tokenizer and settings.

Its layout is that of Hugging Face's Optimum for the Marian models, whose class stands for ours; the graphs say what is
computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer_mt.checkpoints.exports import exported_directory
from transformer_mt.errors import InputError
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import EncoderDecoder, Transformer, count_parameters
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
_MOST_NEW_TOKENS = 256  # as transformers.js has it by default
_MOST_PARAMETERS = (1 << 31) // 4  # a file of ONNX has less than 2 GiB
_TOLERANCE = 1e-3  # of logits, in their standard deviation


def export_onnx(model: EncoderDecoder, tokenizers: Tokenizers, output: Path) -> None:
    """Write the directory ``output``, whole or not at all; see `exported_directory` for what it may replace.

    Each graph is there in float32, and as ``_quantized`` with matrices of bytes. Both have been run on a sentence.

    Raises:
        InputError: a package is missing, the model or tokenizer cannot be expressed, the runtime gives other results,
            an ``output`` that must not be replaced.
        RunError: the place cannot be written or is full.
    """
    if not isinstance(model, Transformer):
        raise InputError("model.kind recurrent: only Transformers are exported to ONNX; translate with tmt")
    if count_parameters(model) >= _MOST_PARAMETERS:
        raise InputError("the model is larger than 2 GiB, the most that a file of ONNX holds; export a smaller one")
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import tokenizers as _  # noqa: F401

        from transformer_mt.exchange.onnx_graphs import decoder_graph, encoder_graph
        from transformer_mt.exchange.tokenizer_json import tokenizer_json
    except ImportError as error:
        raise InputError(f"export: {error.name} is not installed; pip install 'transformer-mt[onnx]'") from None
    num_shared = tokenizers.tgt.vocab_size if tokenizers.is_shared else len(SPECIALS)
    first_tgt_id = num_shared if tokenizers.is_shared else tokenizers.src.vocab_size
    files = {
        "tokenizer.json": tokenizer_json(tokenizers),
        "tokenizer_config.json": _tokenizer_config(model),
        "config.json": _config(model, model.generator.out_features + first_tgt_id - num_shared),
        "generation_config.json": _generation_config(tokenizers.tgt, first_tgt_id - num_shared),
    }
    with exported_directory(output, {"format": "onnx"}) as directory:
        for name, content in files.items():
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            (directory / name).write_text(text, encoding="utf-8")
        (directory / "onnx").mkdir()
        for ending in ("", "_quantized"):
            graphs = {
                ENCODER: encoder_graph(model, bool(ending)),
                DECODER: decoder_graph(model, bool(ending), first_tgt_id, num_shared),
            }
            for name, graph in graphs.items():
                onnx.save(graph, str(directory / "onnx" / f"{name}{ending}.onnx"))
        _try(directory, model, tokenizers, first_tgt_id - num_shared)


def _config(model: Transformer, vocab_size: int) -> dict[str, Any]:
    config = model.config
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "activation_function": config.activation,
        "scale_embedding": True,
        **_special_ids(),
    }


def _special_ids() -> dict[str, int]:
    ids = {"pad_token_id": PAD_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    return {**ids, "decoder_start_token_id": BOS_ID}


def _generation_config(tgt: Tokenizer, gap: int) -> dict[str, Any]:
    forbidden = [PAD_ID, UNK_ID, BOS_ID, *(tgt.table[tag] + gap for tag in tgt.tags)]
    return {**_special_ids(), "num_beams": 1, "max_new_tokens": _MOST_NEW_TOKENS, "suppress_tokens": forbidden}


def _tokenizer_config(model: Transformer) -> dict[str, Any]:
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS, strict=True))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    config["clean_up_tokenization_spaces"] = False
    if model.config.positions == "learned":
        config["model_max_length"] = model.config.max_positions  # longer sources are cut there
    return config


def _try(directory: Path, model: Transformer, tokenizers: Tokenizers, gap: int) -> None:
    """Run the graphs on a sentence of the vocabulary's pieces, with the cache and without it.

    Raises:
        InputError: the pieces or the float32 logits differ from ours.
    """
    from tokenizers import Tokenizer as TheirTokenizer

    text = tokenizers.src.decode(
        range(len(SPECIALS), tokenizers.src.vocab_size)[:: max(1, tokenizers.src.vocab_size // 8)]
    )
    src = [*tokenizers.src.encode([text])[0], EOS_ID]
    found = TheirTokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids
    if found != src:
        raise InputError(f"tokenizer.json cuts {text!r} into other pieces; translate with tmt, and report this")
    tgt = [*range(len(SPECIALS), tokenizers.tgt.vocab_size)[:5], EOS_ID]
    with torch.inference_mode():
        expected = model.eval().logits(collate([src], [tgt])).numpy()
    shifted = [i if i < len(SPECIALS) else i + gap for i in (BOS_ID, *tgt)]
    for ending in ("", "_quantized"):
        logits = _run(directory / "onnx", ending, src, shifted[:-1])
        logits = np.delete(logits, np.s_[len(SPECIALS) : len(SPECIALS) + gap], axis=1)
        off = float(np.abs(logits - expected).max() / expected.std())
        if not off < (_TOLERANCE if not ending else np.inf):
            raise InputError(f"the graph's logits are off by {off:.2g} standard deviations; report this")


def _run(directory: Path, ending: str, src: list[int], tgt_in: list[int]) -> Any:
    """Return the logits of one sentence, the last position's computed behind a cache."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    encoder, decoder = (
        onnxruntime.InferenceSession(str(directory / f"{name}{ending}.onnx"), options, ["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )
    mask = np.ones((1, len(src)), dtype=np.int64)
    (memory,) = encoder.run(None, {"input_ids": np.array([src]), "attention_mask": mask})
    known = {"encoder_attention_mask": mask, "encoder_hidden_states": memory}
    names = [one.name for one in decoder.get_outputs()]

    def step(ids: list[int], past: Mapping[str, Any]) -> dict[str, Any]:
        given = {**known, **past, "input_ids": np.array([ids]), "use_cache_branch": np.array([bool(past)])}
        if not past:
            shapes = {one.name: one.shape for one in decoder.get_inputs() if one.name.startswith("past")}
            given |= {name: np.zeros((1, s[1], 0, s[3]), np.float32) for name, s in shapes.items()}
        return dict(zip(names, decoder.run(None, given), strict=True))

    first = step(tgt_in[:-1], {})
    past = {name.replace("present", "past_key_values"): first[name] for name in names[1:]}
    return np.concatenate([first["logits"], step(tgt_in[-1:], past)["logits"]], axis=1)[0]

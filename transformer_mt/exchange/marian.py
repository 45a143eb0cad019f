"""A model as a directory that Hugging Face's `MarianMTModel` and `MarianTokenizer` load.

The family has a post-norm Transformer with biases everywhere, sinusoids in halves, a number for each piece that is
added to its logit, and SentencePiece models beside a table of pieces (``vocab.json``). Pre-norm the library has the
same as `PegasusForConditionalGeneration`, made for summaries (Zhang et al. 2020), but with one table for both sides:
we give it Marian's tokenizer. Hugging Face's library is not needed to write either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from transformer_mt.checkpoints.exports import exported_directory
from transformer_mt.checkpoints.manifest import MODEL
from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError, RunError
from transformer_mt.exchange.from_marian import CLOSE, DOMAINS, UNDETERMINED, code_of, layer_names, read_marian
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer, sinusoids
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID, is_language_tag

CLASSES = {"marian": "MarianMTModel", "pegasus": "PegasusForConditionalGeneration"}

_LEAST_POSITIONS = 512  # as the family has them; the library computes the table anew each time it loads a model


def export_marian(loaded: LoadedModel, card: str, output: Path, family: str = "marian") -> None:
    """Write the directory ``output``, whole or not at all; see `exported_directory` for what it may replace.

    Before it appears it is read back, and must have the logits of the model.

    Args:
        card: the text of README.md.
        family: ``marian``, for post-norm models, or ``pegasus``, for pre-norm ones.

    Raises:
        InputError: a model or vocabulary that the family cannot have, or an ``output`` that must not be replaced.
        RunError: the place cannot be written or is full.
    """
    model = loaded.model
    if not isinstance(model, Transformer):
        raise InputError(f"model.kind recurrent: only Transformers are exported to {family}; translate with tmt")
    _check_expressible(model.config, family)
    tables = _their_tables(loaded.tokenizers)
    positions = max(_LEAST_POSITIONS, loaded.longest_src_tokens + loaded.config.search.max_extra_tokens)
    texts = {
        "config.json": _their_config(model, positions, family),
        "generation_config.json": _their_generation(loaded, positions),
        "tokenizer_config.json": _their_tokenizer_config(loaded, positions),
        "vocab.json": tables[0],
    }
    if not loaded.tokenizers.is_shared:
        texts["target_vocab.json"] = tables[1]
    with exported_directory(output, {"format": family}) as directory:
        for name, content in texts.items():
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            (directory / name).write_text(text, encoding="utf-8")
        (directory / "source.spm").write_bytes(loaded.tokenizers.src.model)
        (directory / "target.spm").write_bytes(loaded.tokenizers.tgt.model)
        (directory / "README.md").write_text(card, encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in _their_tensors(model, positions).items()}
        (directory / MODEL).write_bytes(safetensors_bytes(tensors, metadata={"format": "pt"}))
        _check_equal(model, read_marian(directory).model, output)


def _check_expressible(config: ModelConfig, family: str) -> None:
    problem, others = None, "ctranslate2 or onnx"
    if family == "marian" and config.norm == "pre":
        problem, others = "model.norm pre: Marian's layers are post-norm", "pegasus, ctranslate2 or onnx"
    elif family == "pegasus" and config.norm == "post":
        problem, others = "model.norm post: Pegasus' layers are pre-norm", "marian, ctranslate2 or onnx"
    elif family == "pegasus" and config.tie_embeddings != "all":
        problem = f"model.tie_embeddings {config.tie_embeddings}: Pegasus has one table for both sides and the output"
    elif config.positions == "learned":
        problem = f"model.positions learned: those of {family} are sinusoids, which its library writes itself"
    elif not config.d_k == config.d_v == config.d_model / config.num_heads:
        problem = (
            f"model.d_k {config.d_k} and d_v {config.d_v}: heads of {family} have d_model / num_heads "
            f"({config.d_model / config.num_heads:g})"
        )
    if problem is not None:
        raise InputError(f"{problem}; export with --format {others}, or train one of that kind")


def _their_tables(tokenizers: Tokenizers) -> list[dict[str, int]]:
    """Piece -> id of both sides, with our tags as the codes that `MarianTokenizer` takes off a source."""
    tags = tokenizers.src.tags
    if tokenizers.has_languages and not all(map(is_language_tag, tags)):
        domains = ", ".join(tag for tag in tags if not is_language_tag(tag))
        raise InputError(
            f"the tags {domains} stand behind a language's: Marian's sources have one code; export with --format "
            "ctranslate2, or train without domains"
        )
    codes = {tag: f">>{code_of(tag)}<<" for tag in tags}
    tables = []
    for tokenizer in (tokenizers.src, tokenizers.tgt):
        table = {codes.get(piece, piece): i for piece, i in tokenizer.table.items()}
        if len(table) < len(tokenizer.table):
            doubled = next(code for code in codes.values() if code in tokenizer.table)
            raise InputError(f"the vocabulary has the piece {doubled}, Marian's code for a tag; train without it")
        tables.append(table)
    return tables


def _their_config(model: Transformer, positions: int, family: str) -> dict[str, Any]:
    config = model.config
    sides = ("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)
    shape: dict[str, Any] = {}
    for side, num_layers in sides:
        shape |= {f"{side}_layers": num_layers, f"{side}_attention_heads": config.num_heads}
        shape |= {f"{side}_ffn_dim": config.d_ff, f"{side}_layerdrop": 0.0}
    return {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "is_encoder_decoder": True,
        "d_model": config.d_model,
        **shape,
        "activation_function": config.activation,
        "scale_embedding": True,
        "static_position_embeddings": True,
        "max_position_embeddings": positions,
        "vocab_size": model.src_embed.num_embeddings,
        "decoder_vocab_size": model.tgt_embed.num_embeddings,
        "share_encoder_decoder_embeddings": config.tie_embeddings == "all",
        "tie_word_embeddings": config.tie_embeddings != "none",
        "dropout": float(config.dropout),
        "attention_dropout": float(config.attention_dropout),
        "activation_dropout": float(config.activation_dropout),
        **_SPECIAL_IDS,
        "torch_dtype": "float32",
    }


_SPECIAL_IDS = {
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "decoder_start_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "forced_eos_token_id": EOS_ID,
}


def _their_generation(loaded: LoadedModel, positions: int) -> dict[str, Any]:
    """The settings of `generate`, which has the power form of the length penalty only: for others its default, 1."""
    search, tgt = loaded.config.search, loaded.tokenizers.tgt
    never = [PAD_ID, UNK_ID, BOS_ID, *(tgt.table[tag] for tag in tgt.tags)]
    return {
        "num_beams": search.beam_size,
        "length_penalty": search.length_penalty if search.length_penalty_form == "power" else 1.0,
        "early_stopping": True,
        "max_length": positions,
        "bad_words_ids": [[i] for i in never],
        **_SPECIAL_IDS,
    }


def _their_tokenizer_config(loaded: LoadedModel, positions: int) -> dict[str, Any]:
    data, tags = loaded.config.data, loaded.tokenizers.src.tags
    src_langs, tgt_langs = zip(*data.directions(), strict=True)
    return {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": _language(data.src_lang, {*src_langs}),
        "target_lang": _language(data.tgt_lang, {*tgt_langs}),
        DOMAINS: [code_of(tag) for tag in tags if not is_language_tag(tag)],
        "separate_vocabs": not loaded.tokenizers.is_shared,
        "model_max_length": positions,
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS, strict=True)),
        "split_special_tokens": True,  # a text may have "</s>" in it
        "clean_up_tokenization_spaces": False,  # it would move punctuation
    }


def _language(own: str, trained: set[str]) -> str:
    """Return the configuration's language of a side, or that of its text where this has another one."""
    return own if own in trained else trained.pop() if len(trained) == 1 else UNDETERMINED


def _their_tensors(model: Transformer, positions: int) -> dict[str, Tensor]:
    tables = {"encoder": model.src_embed.weight, "decoder": model.tgt_embed.weight}
    if model.config.tie_embeddings == "all":
        found = {"model.shared.weight": tables["encoder"]}
    else:
        found = {f"model.{side}.embed_tokens.weight": table for side, table in tables.items()}
    if model.config.tie_embeddings == "none":
        found["lm_head.weight"] = model.generator.weight
    bias_V = model.generator.bias
    found["final_logits_bias"] = (torch.zeros(len(tables["decoder"])) if bias_V is None else bias_V).unsqueeze(0)
    for side in tables:
        found[f"model.{side}.embed_positions.weight"] = sinusoids(positions, model.config.d_model).float()
    for ours, theirs in layer_names(model.config):
        found[theirs] = model.get_parameter(ours) if _has(model, ours) else torch.zeros(model.config.d_model)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _has(model: Transformer, name: str) -> bool:
    """Whether a parameter is there: attention may have no biases."""
    module, _, own = name.rpartition(".")
    return getattr(model.get_submodule(module), own) is not None


@torch.inference_mode()
def _check_equal(model: Transformer, other: Transformer, output: Path) -> None:
    """Try what was written on a sentence of the rarest pieces."""
    src, tgt = (list(range(max(EOS_ID + 1, size - 8), size)) for size in _sizes(model))
    batch = collate([[*src, EOS_ID]], [[*tgt, EOS_ID]])
    difference = float((model.logits(batch) - other.logits(batch)).abs().max())
    if not difference <= CLOSE:
        raise RunError(
            f"{output}: what was written has other logits (by {difference:.2g}); nothing is there, try again"
        )


def _sizes(model: Transformer) -> tuple[int, int]:
    return model.src_embed.num_embeddings, model.tgt_embed.num_embeddings

"""A model as a directory that Hugging Face's `MarianMTModel` and `MarianTokenizer` load, and such a directory as ours.

The family has a post-norm Transformer with biases everywhere, sinusoids in halves, a number for each piece that is
added to its logit, and SentencePiece models beside a table of pieces (``vocab.json``). Neither direction needs
Hugging Face's library.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from transformer_mt.checkpoints.manifest import CONFIG, MODEL
from transformer_mt.checkpoints.model_directory import LoadedModel, copy_weights, fill_directory, model_files
from transformer_mt.config.loading import as_yaml
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError, RunError
from transformer_mt.exchange.directory import check_export, exported_directory, is_export
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer, sinusoids
from transformer_mt.system.directories import replaced_directory
from transformer_mt.system.whole_files import read_plain
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID, is_language_tag, language_tag

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}  # theirs -> ours
_LEAST_POSITIONS = 512  # as the family has them; the library computes the table anew each time it loads a model
_CODE = re.compile(r">>(.+)<<")  # what a source starts with that names a language, and how `MarianTokenizer` finds it
_SETTLED = ("config.json", "vocab.json", "source.spm", "target.spm")
# The logit of <s> where the decoder starts with another piece: e^-100 of it is nothing in a sum of probabilities.
_NEVER = -100.0
_CLOSE = 1e-4
_MOST_BYTES = 1 << 26
_LARGEST = 1 << 16  # width, number of layers or of positions


# Export


def export_marian(loaded: LoadedModel, card: str, output: Path) -> None:
    """Write the directory ``output``, whole or not at all; see `exported_directory` for what it may replace.

    Before it appears it is read back, and must have the logits of the model.

    Args:
        card: the text of README.md.

    Raises:
        InputError: a model or vocabulary that the family cannot have, or an ``output`` that must not be replaced.
        RunError: the place cannot be written or is full.
    """
    model = loaded.model
    if not isinstance(model, Transformer):
        raise InputError("model.kind recurrent: only Transformers are exported to Marian; translate with tmt")
    _check_expressible(model.config)
    tables = _their_tables(loaded.tokenizers)
    positions = max(_LEAST_POSITIONS, loaded.longest_src_tokens + loaded.config.search.max_extra_tokens)
    texts = {
        "config.json": _their_config(model, positions),
        "generation_config.json": _their_generation(loaded, positions),
        "tokenizer_config.json": _their_tokenizer_config(loaded, positions),
        "vocab.json": tables[0],
    }
    if not loaded.tokenizers.is_shared:
        texts["target_vocab.json"] = tables[1]
    with exported_directory(output, {"format": "marian"}) as directory:
        for name, content in texts.items():
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            (directory / name).write_text(text, encoding="utf-8")
        (directory / "source.spm").write_bytes(loaded.tokenizers.src.model)
        (directory / "target.spm").write_bytes(loaded.tokenizers.tgt.model)
        (directory / "README.md").write_text(card, encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in _their_tensors(model, positions).items()}
        (directory / MODEL).write_bytes(safetensors_bytes(tensors, metadata={"format": "pt"}))
        _check_equal(model, read_marian(directory).model, output)


def _check_expressible(config: ModelConfig) -> None:
    problem = None
    if config.norm == "pre":
        problem = "model.norm pre: Marian's layers are post-norm"
    elif config.positions == "learned":
        problem = "model.positions learned: Marian's are sinusoids, which its library writes itself"
    elif not config.d_k == config.d_v == config.d_model / config.num_heads:
        problem = (
            f"model.d_k {config.d_k} and d_v {config.d_v}: Marian's heads have d_model / num_heads "
            f"({config.d_model / config.num_heads:g})"
        )
    if problem is not None:
        raise InputError(f"{problem}; export with --format ctranslate2 or onnx, or train one of that kind")


def _their_tables(tokenizers: Tokenizers) -> list[dict[str, int]]:
    """Piece -> id of both sides, with our tags as the codes that `MarianTokenizer` takes off a source."""
    tags = tokenizers.src.tags
    if tokenizers.has_languages and not all(map(is_language_tag, tags)):
        domains = ", ".join(tag for tag in tags if not is_language_tag(tag))
        raise InputError(
            f"the tags {domains} stand behind a language's: Marian's sources have one code; export with --format "
            "ctranslate2, or train without domains"
        )
    codes = {tag: f">>{tag.strip('<>').removeprefix('2')}<<" for tag in tags}
    tables = []
    for tokenizer in (tokenizers.src, tokenizers.tgt):
        table = {codes.get(piece, piece): i for piece, i in tokenizer.table.items()}
        if len(table) < len(tokenizer.table):
            doubled = next(code for code in codes.values() if code in tokenizer.table)
            raise InputError(f"the vocabulary has the piece {doubled}, Marian's code for a tag; train without it")
        tables.append(table)
    return tables


def _their_config(model: Transformer, positions: int) -> dict[str, Any]:
    config = model.config
    sides = ("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)
    shape: dict[str, Any] = {}
    for side, num_layers in sides:
        shape |= {f"{side}_layers": num_layers, f"{side}_attention_heads": config.num_heads}
        shape |= {f"{side}_ffn_dim": config.d_ff, f"{side}_layerdrop": 0.0}
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
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
    return {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": loaded.config.data.src_lang,
        "target_lang": loaded.config.data.tgt_lang,
        "separate_vocabs": not loaded.tokenizers.is_shared,
        "model_max_length": positions,
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS, strict=True)),
        "split_special_tokens": True,  # a text may have "</s>" in it
        "clean_up_tokenization_spaces": False,  # it would move punctuation
    }


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
    for ours, theirs in _layer_names(model.config):
        found[theirs] = model.get_parameter(ours) if _has(model, ours) else torch.zeros(model.config.d_model)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _has(model: Transformer, name: str) -> bool:
    """Whether a parameter is there: attention may have no biases."""
    module, _, own = name.rpartition(".")
    return getattr(model.get_submodule(module), own) is not None


def _layer_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Of each parameter of the layers its name in our model and in theirs."""
    for side, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        attentions = {"self_attn": "self_attn"} | ({"cross_attn": "encoder_attn"} if side == "decoder" else {})
        parts = {"ff.up": "fc1", "ff.down": "fc2", "norm1": "self_attn_layer_norm"}
        for our_name, their_name in attentions.items():
            parts |= {f"{our_name}.{one}_proj": f"{their_name}.{one}_proj" for one in ("q", "k", "v", "out")}
        if side == "decoder":
            parts |= {"norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
        else:
            parts["norm2"] = "final_layer_norm"
        for i in range(num_layers):
            for ours, theirs in parts.items():
                for kind in ("weight", "bias"):
                    yield f"{side}.layers.{i}.{ours}.{kind}", f"model.{side}.layers.{i}.{theirs}.{kind}"


@torch.inference_mode()
def _check_equal(model: Transformer, other: Transformer, output: Path) -> None:
    """Try what was written on a sentence of the rarest pieces."""
    src, tgt = (list(range(max(EOS_ID + 1, size - 8), size)) for size in _sizes(model))
    batch = collate([[*src, EOS_ID]], [[*tgt, EOS_ID]])
    difference = float((model.logits(batch) - other.logits(batch)).abs().max())
    if not difference <= _CLOSE:
        raise RunError(
            f"{output}: what was written has other logits (by {difference:.2g}); nothing is there, try again"
        )


def _sizes(model: Transformer) -> tuple[int, int]:
    return model.src_embed.num_embeddings, model.tgt_embed.num_embeddings


# Import


def import_marian(directory: Path, output: Path) -> None:
    """Write a MarianMT directory as a model directory of ours, whole or not at all.

    Raises:
        InputError: no such directory, one that is damaged or has what our model cannot, an ``output`` that must not be
            replaced.
        RunError: the place cannot be written or is full.
    """
    with replaced_directory(output, model_files, "an imported model") as temporary:
        if is_export(directory):
            check_export(directory)
        found = read_marian(directory)
        kind = found.tokenizers.src.pieces()[0]
        tree = found.config.model_dump(mode="json", exclude={"eval"})
        tree["tokenizer"] = {"shared": found.config.model.tie_embeddings == "all" or found.tokenizers.is_shared}
        if kind in ("bpe", "unigram"):
            tree["tokenizer"]["type"] = kind
        files = {CONFIG: as_yaml(tree).encode(), **found.tokenizers.files()}
        weights = {name: parameter.detach() for name, parameter in found.model.named_parameters()}
        fill_directory(temporary, files, {MODEL: weights}, found.longest_src_tokens, found.tokenizers.src.tags)


class _Found(LoadedModel):
    model: Transformer


def read_marian(directory: Path) -> _Found:
    """Return a MarianMT directory as a model of ours.

    Rows of vocabularies are put into our order, <pad> <unk> <s> </s> first. Where the decoder starts with <pad>, <s> is
    a copy of its row that is never predicted.

    Raises:
        InputError: a file is missing or damaged, or something that our model cannot have.
    """
    if missing := [name for name in _SETTLED if not (directory / name).is_file()]:
        raise InputError(
            f"{directory}: no MarianMT directory (no {', '.join(missing)}); name one that MarianMTModel and "
            "MarianTokenizer load"
        )
    config = _read_json(directory / "config.json")
    if config.get("model_type") != "marian":
        raise InputError(
            f"{directory / 'config.json'}: model_type is {config.get('model_type')}; only marian is imported"
        )
    settings = _read_json(directory / "tokenizer_config.json", optional=True)
    tensors = _read_tensors(directory)
    try:
        return _converted(directory, config, settings, tensors)
    except KeyError as error:
        raise InputError(
            f"{directory}: config.json or the weights lack {str(error)[1:-1]}; download it again, whole"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{directory}: {name}: {first['msg']}; our model cannot have that") from None


def _converted(
    directory: Path, config: Mapping[str, Any], settings: Mapping[str, Any], tensors: dict[str, Tensor]
) -> _Found:
    shape = _our_shape(directory, config)
    is_shared = config.get("share_encoder_decoder_embeddings", True)
    is_tied = config.get("tie_word_embeddings", True)
    src_VD, tgt_VD = (
        tensors["model.shared.weight" if is_shared else f"model.{side}.embed_tokens.weight"]
        for side in ("encoder", "decoder")
    )
    # Sizes that a configuration names are there before memory is taken for them.
    first_FD = tensors["model.encoder.layers.0.fc1.weight"]
    for name, size in (("d_model", src_VD.shape[-1]), ("encoder_ffn_dim", len(first_FD))):
        if config[name] != size:
            raise InputError(
                f"{directory}: config.json says {name} {config[name]}, the weights have {size}; download it again"
            )
    rows = _both_rows(directory, config, settings, len(src_VD), len(tgt_VD))
    usual = {"final_logits_bias": torch.zeros(1, len(tgt_VD))}
    table_LD = sinusoids(config["max_position_embeddings"], config["d_model"]).float()
    usual |= {f"model.{side}.embed_positions.weight": table_LD for side in ("encoder", "decoder")}
    for name, tensor in usual.items():
        if tensors.setdefault(name, tensor).shape != tensor.shape:
            raise InputError(
                f"{directory}: {name} is {list(tensors[name].shape)}, config.json and the vocabulary ask for "
                f"{list(tensor.shape)}; download it again, whole"
            )
    bias_V = tensors["final_logits_bias"][0, rows[1].order]
    if rows[1].is_start_copied:
        bias_V[BOS_ID] = _NEVER
    is_scaled = config.get("scale_embedding", False)
    scale = 1.0 if is_scaled else config["d_model"] ** -0.5  # ours are always multiplied by sqrt(d_model)
    values = {
        "src_embed.weight": src_VD[rows[0].order] * scale,
        "tgt_embed.weight": tgt_VD[rows[1].order] * scale,
        "generator.weight": (tgt_VD if is_tied else tensors["lm_head.weight"])[rows[1].order],
        "generator.bias": bias_V,
    }
    shape["tie_embeddings"] = "none" if not (is_scaled and is_tied) else "all" if is_shared else "target"
    shape["output_bias"] = bool(bias_V.any())
    values["src_positions.weight"] = tensors["model.encoder.embed_positions.weight"]
    values["tgt_positions.weight"] = tensors["model.decoder.embed_positions.weight"]
    if not all(torch.allclose(values[f"{side}_positions.weight"], table_LD, 0, _CLOSE) for side in ("src", "tgt")):
        shape |= {"positions": "learned", "max_positions": len(table_LD)}
    model_config = ModelConfig(**shape)
    values |= {ours: tensors[theirs] for ours, theirs in _layer_names(model_config)}
    model = Transformer(model_config, len(rows[0].order), len(rows[1].order)).eval()
    copy_weights(model, {name: values[name] for name, _ in model.named_parameters()}, directory)
    return _Found(
        directory,
        model,
        _our_config(directory, config, settings, model_config, rows[0].codes),
        _our_tokenizers(directory, rows),
        config["max_position_embeddings"],
    )


def _our_shape(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("d_model", "max_position_embeddings", "encoder_layers", "decoder_layers"):
        if type(config[name]) is not int or not 1 <= config[name] <= _LARGEST:
            raise InputError(f"{directory / 'config.json'}: {name} is {config[name]}, not one from 1 to {_LARGEST:,}")
    for name in ("attention_heads", "ffn_dim"):
        if config[f"encoder_{name}"] != config[f"decoder_{name}"]:
            raise InputError(
                f"{directory / 'config.json'}: encoder_{name} {config[f'encoder_{name}']} is not decoder_{name} "
                f"{config[f'decoder_{name}']}; our layers are alike on both sides, so this model cannot be imported"
            )
    if config["activation_function"] not in _ACTIVATIONS:
        raise InputError(
            f"{directory / 'config.json'}: activation_function {config['activation_function']}: ours are "
            f"{', '.join(_ACTIVATIONS)}; this model cannot be imported"
        )
    return {
        "d_model": config["d_model"],
        "d_ff": config["encoder_ffn_dim"],
        "num_heads": config["encoder_attention_heads"],
        "num_encoder_layers": config["encoder_layers"],
        "num_decoder_layers": config["decoder_layers"],
        "dropout": config.get("dropout", 0.1),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "activation_dropout": config.get("activation_dropout", 0.0),
        "activation": _ACTIVATIONS[config["activation_function"]],
        "attention_bias": True,
    }


class _Rows:
    """Which rows of their tables ours are, and what the pieces are called here."""

    def __init__(self, path: Path, config: Mapping[str, Any], num_rows: int, *, is_target: bool) -> None:
        table = _read_json(path)
        if not len({i for i in table.values() if type(i) is int and 0 <= i < num_rows}) == len(table):
            raise InputError(f"{path}: not a table of pieces with different ids below {num_rows}, the rows there are")
        pad, eos, unk = config["pad_token_id"], config["eos_token_id"], table["<unk>"]
        # A source's vocabulary of its own needs no <s>, but may have one.
        start = config["decoder_start_token_id"] if is_target else table.get(SPECIALS[BOS_ID], pad)
        special = [pad, unk, start, eos]
        if not all(type(i) is int and 0 <= i < num_rows for i in special) or len({pad, unk, eos}) < 3:
            raise InputError(
                f"{path}: <pad>, <unk>, </s> and the decoder's start are the ids {special}; is it damaged?"
            )
        self.is_start_copied = start in (pad, unk, eos)
        rest = [i for i in range(num_rows) if i not in special]
        self.order = [*special, *rest]
        self.codes = sorted(code[1] for piece in table if (code := _CODE.fullmatch(piece)))
        self.table = {piece: i for i, piece in enumerate(SPECIALS)}
        piece_of = {i: piece for piece, i in table.items()}
        for i, row in enumerate(rest, len(SPECIALS)):
            piece = piece_of.get(row, f"<row {row}>")  # tables may be rounded up
            code = _CODE.fullmatch(piece)
            piece = language_tag(code[1]) if code else piece
            while piece in self.table:  # as a <s> that nothing starts with
                piece += "_"
            self.table[piece] = i


def _both_rows(
    directory: Path, config: Mapping[str, Any], settings: Mapping[str, Any], num_src: int, num_tgt: int
) -> tuple[_Rows, _Rows]:
    is_separate = bool(settings.get("separate_vocabs"))
    return (
        _Rows(directory / "vocab.json", config, num_src, is_target=not is_separate),
        _Rows(directory / ("target_vocab.json" if is_separate else "vocab.json"), config, num_tgt, is_target=True),
    )


def _our_tokenizers(directory: Path, rows: tuple[_Rows, _Rows]) -> Tokenizers:
    """Two SentencePiece models with one table are two tokenizers whose tables are equal."""
    src_model, tgt_model = (_read(directory / name) for name in ("source.spm", "target.spm"))
    try:
        src = Tokenizer(src_model, rows[0].table, [language_tag(code) for code in rows[0].codes])
        if tgt_model == src_model and rows[1].table == rows[0].table:
            return Tokenizers(src, src)
        return Tokenizers(src, Tokenizer(tgt_model, rows[1].table, ()))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from None


def _our_config(
    directory: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    model_config: ModelConfig,
    codes: list[str],
) -> DecodingConfig:
    """Languages and search. What is not said of the languages is "und", undetermined."""
    src_lang, tgt_lang = settings.get("source_lang") or "und", settings.get("target_lang") or "und"
    generation = {**config, **_read_json(directory / "generation_config.json", optional=True)}
    search = {
        "beam_size": generation.get("num_beams") or 1,
        "length_penalty": generation.get("length_penalty") or 1.0,
        "length_penalty_form": "power",
        "stop": "beam_finished",
    }
    data = {
        "src_lang": src_lang,
        "tgt_lang": codes[0] if len(codes) == 1 else tgt_lang,
        "train": [{"tgt_lang": code} for code in codes],
    }
    return DecodingConfig.model_validate({"data": data, "model": model_config.model_dump(), "search": search})


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    """The weights in float32; a file of PyTorch's is read without executing anything in it."""
    path = directory / MODEL
    try:
        if path.exists():
            tensors = load_file(path)
        else:
            path = directory / "pytorch_model.bin"
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float() for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise InputError(f"{directory}: no MarianMT directory (no {MODEL} or {path.name}); download it whole") from None
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or no file of weights ({reason:.200}); download it again") from None


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except FileNotFoundError:
        if optional:
            return {}
        raise InputError(f"{path}: no such file; download the directory whole") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download it again") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: no JSON object; download it again")
    return found


def _read(path: Path) -> bytes:
    return read_plain(path.resolve(), _MOST_BYTES)  # the hub's cache is made of links


def local_directory(name: str) -> Path:
    """Return a directory, or where the files of a model of the Hugging Face hub were downloaded to.

    Raises:
        InputError: there is no such directory, and no such model or no network.
    """
    if Path(name).is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Path(name)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.spm", MODEL]
    try:
        directory = Path(snapshot_download(name, allow_patterns=patterns))
        if not (directory / MODEL).exists():
            directory = Path(snapshot_download(name, allow_patterns=[*patterns, "pytorch_model.bin"]))
    except Exception as error:  # its own kinds, those of the network beneath, and no cache
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: no such directory, and not to be had from the hub ({type(error).__name__}: {reason:.200}); "
            "name a directory, or look at the network"
        ) from None
    return directory

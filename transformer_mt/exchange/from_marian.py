"""A directory that Hugging Face's `MarianMTModel` and `MarianTokenizer` load, as those of OPUS-MT, as a model of ours.

Hugging Face's library is not needed to read it; `marian` tells what the family has, also pre-norm, and writes it.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from transformer_mt.checkpoints.exports import check_export, is_export
from transformer_mt.checkpoints.manifest import CONFIG, MODEL
from transformer_mt.checkpoints.model_directory import LoadedModel, copy_weights, fill_directory, model_files
from transformer_mt.config.loading import as_yaml
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError
from transformer_mt.model.transformer import Transformer, sinusoids
from transformer_mt.system.directories import replaced_directory
from transformer_mt.system.whole_files import read_plain
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, SPECIALS, domain_tag, is_language_tag, language_tag

UNDETERMINED = "und"  # a language that nothing is said of (ISO 639-2)
DOMAINS = "domains"  # our key for the codes before a source that name no language
CLOSE = 1e-4  # numbers that library and we have computed each by ourselves
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}  # theirs -> ours
_CODE = re.compile(r">>(.+)<<")  # what a source starts with that names a language, and how `MarianTokenizer` finds it
_SETTLED = ("config.json", "vocab.json", "source.spm", "target.spm")
# The logit of <s> where the decoder starts with another piece: e^-100 of it is nothing in a sum of probabilities.
_NEVER = -100.0
_MOST_BYTES = 1 << 26
_LARGEST = 1 << 16  # width, number of layers or of positions


def code_of(tag: str) -> str:
    """Return what Marian calls a tag of ours: de for <2de>, with >>…<< around it where a source starts with it."""
    return tag.strip("<>").removeprefix("2")


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
    if config.get("model_type") not in ("marian", "pegasus"):
        raise InputError(
            f"{directory / 'config.json'}: model_type is {config.get('model_type')}; only marian is imported, and "
            "pegasus with Marian's tokenizer"
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
    output_VD = tgt_VD if is_tied else tensors["lm_head.weight"]
    if any(matrix.dim() != 2 for matrix in (src_VD, tgt_VD, first_FD)) or output_VD.shape != tgt_VD.shape:
        raise InputError(f"{directory}: the weights have matrices of other shapes; download it again, whole")
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
        "generator.weight": output_VD[rows[1].order],
        "generator.bias": bias_V,
    }
    shape["tie_embeddings"] = "none" if not (is_scaled and is_tied) else "all" if is_shared else "target"
    shape["output_bias"] = bool(bias_V.any())
    values["src_positions.weight"] = tensors["model.encoder.embed_positions.weight"]
    values["tgt_positions.weight"] = tensors["model.decoder.embed_positions.weight"]
    if not all(torch.allclose(values[f"{side}_positions.weight"], table_LD, 0, CLOSE) for side in ("src", "tgt")):
        shape |= {"positions": "learned", "max_positions": len(table_LD)}
    model_config = ModelConfig(**shape)
    values |= {ours: tensors[theirs] for ours, theirs in layer_names(model_config)}
    model = Transformer(model_config, len(rows[0].order), len(rows[1].order)).eval()
    copy_weights(model, {name: values[name] for name, _ in model.named_parameters()}, directory)
    return _Found(
        directory,
        model,
        _our_config(directory, config, settings, model_config, rows[0].tags),
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
    if str(config["activation_function"]) not in _ACTIVATIONS:
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
        "norm": "post" if config["model_type"] == "marian" else "pre",
        "activation": _ACTIVATIONS[config["activation_function"]],
        "attention_bias": True,
    }


class _Rows:
    """Which rows of their tables ours are, and what the pieces are called here."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], domains: Sequence[str], num_rows: int, *, is_target: bool
    ) -> None:
        table = _read_json(path)
        if not len({i for i in table.values() if type(i) is int and 0 <= i < num_rows}) == len(table):
            raise InputError(f"{path}: not a table of pieces with different ids below {num_rows}, the rows there are")
        pad, eos, unk = config["pad_token_id"], config["eos_token_id"], table.get("<unk>")
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
        codes = sorted(code[1] for piece in table if (code := _CODE.fullmatch(piece)))
        self.tags = {code: domain_tag(code) if code in domains else language_tag(code) for code in codes}
        self.table = {piece: i for i, piece in enumerate(SPECIALS)}
        piece_of = {i: piece for piece, i in table.items()}
        for i, row in enumerate(rest, len(SPECIALS)):
            piece = piece_of.get(row, f"<row {row}>")  # tables may be rounded up
            code = _CODE.fullmatch(piece)
            piece = self.tags[code[1]] if code else piece
            while piece in self.table:  # as a <s> that nothing starts with
                piece += "_"
            self.table[piece] = i


def _both_rows(
    directory: Path, config: Mapping[str, Any], settings: Mapping[str, Any], num_src: int, num_tgt: int
) -> tuple[_Rows, _Rows]:
    is_separate, domains = bool(settings.get("separate_vocabs")), settings.get(DOMAINS)
    if not isinstance(domains, list):
        domains = []
    tgt_path = directory / ("target_vocab.json" if is_separate else "vocab.json")
    return (
        _Rows(directory / "vocab.json", config, domains, num_src, is_target=not is_separate),
        _Rows(tgt_path, config, domains, num_tgt, is_target=True),
    )


def _our_tokenizers(directory: Path, rows: tuple[_Rows, _Rows]) -> Tokenizers:
    """Two SentencePiece models with one table are two tokenizers whose tables are equal."""
    src_model, tgt_model = (_read(directory / name) for name in ("source.spm", "target.spm"))
    try:
        src = Tokenizer(src_model, rows[0].table, rows[0].tags.values())
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
    tags: Mapping[str, str],
) -> DecodingConfig:
    src_lang, tgt_lang = settings.get("source_lang") or UNDETERMINED, settings.get("target_lang") or UNDETERMINED
    codes = [code for code, tag in tags.items() if is_language_tag(tag)]
    generation = {**config, **_read_json(directory / "generation_config.json", optional=True)}
    length_penalty = generation.get("length_penalty")
    search = {
        "beam_size": generation.get("num_beams") or 1,
        "length_penalty": 1.0 if length_penalty is None else length_penalty,
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
    except pickle.UnpicklingError:  # PyTorch's own words advise to load it all the same
        raise InputError(f"{path}: damaged, or has more in it than weights; download it again") from None
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        AttributeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or no file of weights ({reason:.200}); download it again") from None


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except FileNotFoundError:
        if optional:
            return {}
        raise InputError(f"{path}: no such file; download the directory whole") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: no JSON object; download it again")
    return found


def _read(path: Path) -> bytes:
    try:
        return read_plain(path.resolve(), _MOST_BYTES)  # the hub's cache is made of links
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download it again") from None


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


def layer_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
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
        if config.norm == "pre":
            for kind in ("weight", "bias"):
                yield f"{side}.norm.{kind}", f"model.{side}.layer_norm.{kind}"

"""A model as a directory that CTranslate2 (Klein et al. 2020) loads.

CTranslate2 has the layers of a Transformer in its own code; what is written are their weights by its names and the
few facts that its code asks for. Its translator takes pieces and gives pieces: the SentencePiece models lie beside, and
so does what `tmt` takes to translate with it (`decoding.ctranslate2_searcher`): tables, tags and how to search.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transformer_mt.checkpoints.exports import exported_directory
from transformer_mt.checkpoints.manifest import CONFIG
from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.config.loading import to_yaml
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.decoding.ctranslate2_searcher import NUM_POSITIONS
from transformer_mt.errors import InputError, RunError
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import (
    LAYER_NORM_EPS,
    DecoderLayer,
    EncoderDecoder,
    EncoderLayer,
    FeedForward,
    Transformer,
    sinusoids,
)
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, SPECIALS, UNK_ID

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerSpec

QUANTIZATIONS = ("float32", "bfloat16", "int8")
_TOLERANCE = 1e-3  # of log-probabilities


def export_ctranslate2(loaded: LoadedModel, output: Path, quantization: str) -> None:
    """Write the directory ``output``, whole or not at all; see `exported_directory` for what it may replace.

    Args:
        quantization: of matrices and embeddings, one of `QUANTIZATIONS`. ``int8`` has one scale a row.

    Raises:
        InputError: as `write_ctranslate2`; or an ``output`` that must not be replaced.
        RunError: as `write_ctranslate2`; or the place cannot be written or is full.
    """
    facts = {
        "format": "ctranslate2",
        "quantization": quantization,
        "longest_src_tokens": loaded.longest_src_tokens,
        "tags": loaded.tokenizers.src.tags,
    }
    config = _config(loaded.config, quantization)
    with exported_directory(output, facts) as directory:
        write_ctranslate2(loaded.model, loaded.tokenizers, directory, quantization)
        for name, content in {CONFIG: to_yaml(config).encode(), **loaded.tokenizers.files()}.items():
            (directory / name).write_bytes(content)


def write_ctranslate2(model: EncoderDecoder, tokenizers: Tokenizers, directory: Path, quantization: str) -> None:
    """Fill an empty directory with what CTranslate2 loads, and let it translate a sentence.

    Raises:
        InputError: a quantization that is not one of `QUANTIZATIONS`, no CTranslate2, a model or vocabulary that it
            cannot have.
        RunError: CTranslate2 does not load what was written, or has other scores.
    """
    if quantization not in QUANTIZATIONS:
        raise InputError(f"--quantization {quantization}: not one of {', '.join(QUANTIZATIONS)}; choose one of them")
    if not isinstance(model, Transformer):
        raise InputError("model.kind recurrent: only Transformers are exported to CTranslate2; translate with tmt")
    _check_expressible(model, tokenizers)
    spec = _spec(model)
    spec.register_source_vocabulary(_pieces(tokenizers.src))
    spec.register_target_vocabulary(_pieces(tokenizers.tgt))
    spec.config.unk_token = SPECIALS[UNK_ID]
    spec.config.bos_token = spec.config.decoder_start_token = SPECIALS[BOS_ID]
    spec.config.eos_token = SPECIALS[EOS_ID]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = LAYER_NORM_EPS
    spec.validate()
    spec.optimize(quantization)
    spec.save(str(directory))
    try:
        off = _difference(directory, model, tokenizers)
    except RuntimeError as error:
        raise RunError(f"CTranslate2 does not load what was written ({error}); install another release of it") from None
    if not off < (_TOLERANCE if quantization == "float32" else np.inf):
        raise RunError(f"what was written has other scores (by {off:.2g}); install another release of ctranslate2")


@torch.inference_mode()
def _difference(directory: Path, model: Transformer, tokenizers: Tokenizers) -> float:
    """How far CTranslate2's log-probabilities of a sentence that it translates are from the model's."""
    from ctranslate2 import Translator

    translator = Translator(str(directory), intra_threads=1)
    size = tokenizers.src.vocab_size
    src = range(len(SPECIALS), size)[:: max(1, size // 4)]
    pieces = _pieces(tokenizers.src)
    source = [[pieces[i] for i in src]]
    target = translator.translate_batch(source, max_decoding_length=4)[0].hypotheses
    [found] = translator.score_batch(source, target)
    batch = collate([[*src, EOS_ID]], [[*(tokenizers.tgt.table[piece] for piece in target[0]), EOS_ID]])
    logp_N = model.logits(batch).log_softmax(-1).gather(1, batch.labels_N[:, None])[:, 0]
    return float((torch.tensor(found.log_probs) - logp_N).abs().max())


def _config(config: DecodingConfig, quantization: str) -> DecodingConfig:
    """Return what translating with the export takes to know. CTranslate2 has one form of length penalty and one rule
    when to stop, and does not sample as we do: more than the beam has there are no translations."""
    search = {"length_penalty_form": "power", "stop": "beam_finished", "sampling": False, "precision": quantization}
    search["n_best"] = min(config.search.n_best, config.search.beam_size)
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def _check_expressible(model: Transformer, tokenizers: Tokenizers) -> None:
    config = model.config
    if config.d_k != config.d_v:
        raise InputError(
            f"model.d_v {config.d_v} is not model.d_k {config.d_k}: CTranslate2 has one size for both; "
            "translate with tmt, or train with equal ones"
        )
    for side, tokenizer, table in (
        ("source", tokenizers.src, model.src_embed),
        ("target", tokenizers.tgt, model.tgt_embed),
    ):
        if table.num_embeddings != tokenizer.vocab_size:
            raise InputError(
                f"the {side} vocabulary has {tokenizer.vocab_size} pieces, the model {table.num_embeddings} rows for "
                "them; both must come from the same run"
            )
        specials = tuple(_pieces(tokenizer)[: len(SPECIALS)])
        if specials != SPECIALS:
            raise InputError(
                f"the {side} vocabulary starts with {' '.join(specials)}, CTranslate2 is told of {' '.join(SPECIALS)}; "
                "use the vocab.json that the model was trained with"
            )


def _spec(model: Transformer) -> TransformerSpec:
    """CTranslate2's description, filled with copies of the weights: it changes them in place."""
    try:
        from ctranslate2.specs import Activation, TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec
    except ImportError:
        raise InputError("export: CTranslate2 is not installed; pip install 'transformer-mt[export]'") from None
    config = model.config
    # Of their three, GELU is the exact one, with the error function, as PyTorch's is.
    activations = {"relu": Activation.RELU, "gelu": Activation.GELU, "swish": Activation.SWISH}
    shape: dict[str, Any] = dict(
        num_heads=config.num_heads,
        pre_norm=config.norm == "pre",
        activation=activations[config.activation],
    )
    encoder = TransformerEncoderSpec(config.num_encoder_layers, **shape)
    decoder = TransformerDecoderSpec(config.num_decoder_layers, **shape)

    encoder.embeddings[0].weight = _array(model.src_embed.weight)
    decoder.embeddings.weight = _array(model.tgt_embed.weight)
    _fill_linear(decoder.projection, model.generator)
    encoder.scale_embeddings = decoder.scale_embeddings = True  # × sqrt(d_model)
    encoder.position_encodings.encodings, decoder.position_encodings.encodings = _positions(model)
    if config.norm == "pre":
        _fill_norm(encoder.layer_norm, model.encoder.norm)
        _fill_norm(decoder.layer_norm, model.decoder.norm)
    for layer, theirs in zip(model.encoder.layers, encoder.layer, strict=True):
        assert isinstance(layer, EncoderLayer)
        _fill_self_attention(theirs.self_attention, layer.self_attn, layer.norm1)
        _fill_feed_forward(theirs.ffn, layer.ff, layer.norm2)
    for layer, theirs in zip(model.decoder.layers, decoder.layer, strict=True):
        assert isinstance(layer, DecoderLayer)
        _fill_self_attention(theirs.self_attention, layer.self_attn, layer.norm1)
        _fill_cross_attention(theirs.attention, layer.cross_attn, layer.norm2)
        _fill_feed_forward(theirs.ffn, layer.ff, layer.norm3)
    return TransformerSpec(encoder, decoder)


def _positions(model: Transformer) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The position tables of source and target. CTranslate2 would compute other sinusoids by itself."""
    if model.config.positions == "learned":
        return _array(model.src_positions.weight), _array(model.tgt_positions.weight)
    table = _array(sinusoids(NUM_POSITIONS, model.config.d_model))
    return table, table


def _fill_self_attention(theirs: Any, attention: MultiHeadAttention, norm: nn.Module) -> None:
    theirs.queries_scale = attention.scale
    _fill_linear(theirs.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
    _fill_linear(theirs.linear[1], attention.out_proj)
    _fill_norm(theirs.layer_norm, norm)


def _fill_cross_attention(theirs: Any, attention: MultiHeadAttention, norm: nn.Module) -> None:
    theirs.queries_scale = attention.scale
    _fill_linear(theirs.linear[0], attention.q_proj)
    _fill_linear(theirs.linear[1], attention.k_proj, attention.v_proj)
    _fill_linear(theirs.linear[2], attention.out_proj)
    _fill_norm(theirs.layer_norm, norm)


def _fill_feed_forward(theirs: Any, ff: FeedForward, norm: nn.Module) -> None:
    _fill_linear(theirs.linear_0, ff.up)
    _fill_linear(theirs.linear_1, ff.down)
    _fill_norm(theirs.layer_norm, norm)


def _fill_linear(theirs: Any, *layers: nn.Linear) -> None:
    """Several projections of the same input stand one under the other."""
    theirs.weight = np.concatenate([_array(layer.weight) for layer in layers])
    if layers[0].bias is not None:
        theirs.bias = np.concatenate([_array(layer.bias) for layer in layers])


def _fill_norm(theirs: Any, norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    theirs.gamma, theirs.beta = _array(norm.weight), _array(norm.bias)


def _array(x: Tensor) -> npt.NDArray[np.float32]:
    return x.detach().cpu().numpy().astype(np.float32)  # a copy


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """All pieces in the order of their ids."""
    return sorted(tokenizer.table, key=tokenizer.table.__getitem__)

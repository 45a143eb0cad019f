"""The Transformer as a whole: what it may see, what padding may not change, its parameters, its decoding step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from transformer_mt.config.sections import PRESETS, ModelConfig
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer, count_parameters, sinusoids
from transformer_mt.text.vocabulary import EOS_ID

V = 30
SRC = [[4, 5, 6, 7, 8, 9, EOS_ID], [10, 11, EOS_ID], [12, 13, 14, EOS_ID]]
TGT = [[20, 21, 22, EOS_ID], [23, 24, 25, 26, 27, 28, EOS_ID], [29, EOS_ID]]

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "pre-norm": {"norm": "pre"},
    "learned positions": {"positions": "learned", "max_positions": 40},
    "separate embeddings": {"tie_embeddings": "none"},
    "free head sizes": {"d_k": 3, "d_v": 7, "num_heads": 5, "attention_bias": True},
    "gelu": {"activation": "gelu", "tie_embeddings": "target"},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def small_model(**options: Any) -> Transformer:
    torch.manual_seed(7)
    shape: dict[str, Any] = dict(
        d_model=16, d_ff=24, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0
    )
    return Transformer(ModelConfig(**(shape | options)), V, V).double().eval()


def by_sentence(model: Transformer, src: list[list[int]], tgt: list[list[int]]) -> tuple[torch.Tensor, ...]:
    """The logits (T, V) of each sentence of a batch."""
    logits_NV = model.logits(collate(src, tgt, multiple=4))
    return torch.split(logits_NV, [len(ids) for ids in tgt])


@variants
def test_no_target_position_sees_a_later_one(options: dict[str, Any]) -> None:
    model = small_model(**options)
    before = by_sentence(model, SRC, TGT)
    for position in range(1, 6):
        changed = [ids.copy() for ids in TGT]
        changed[1][position] = 4  # a label, and the input of the next position
        after = by_sentence(model, SRC, changed)
        torch.testing.assert_close(after[1][: position + 1], before[1][: position + 1], rtol=0, atol=1e-12)
        assert (after[1][position + 1] - before[1][position + 1]).abs().max() > 1e-3
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-12)


@variants
def test_company_changes_nothing(options: dict[str, Any]) -> None:
    """A sentence alone, without padding or tail, gives the same logits, loss and gradients as in company."""
    model = small_model(**options)
    together = by_sentence(model, SRC, TGT)
    for logits, src, tgt in zip(together, SRC, TGT, strict=True):
        torch.testing.assert_close(logits, model.logits(collate([src], [tgt])), rtol=0, atol=1e-12)

    model(collate(SRC, TGT, multiple=8), 0.1)[0].backward()
    padded = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for src, tgt in zip(SRC, TGT, strict=True):
        model(collate([src], [tgt]), 0.1)[0].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, padded[name], rtol=1e-9, atol=1e-10, msg=name)


def table_3_parameters(
    N: int = 6, d_model: int = 512, d_ff: int = 2048, h: int = 8, d_k: int = 64, d_v: int = 64, V: int = 37000,
    positions: int = 0,
) -> int:  # fmt: skip
    """Counted by hand from the paper's formulas.

    An attention has W^Q, W^K (d_model × h·d_k), W^V (d_model × h·d_v), W^O (h·d_v × d_model), no biases; the feed-
    forward layers have W_1, b_1, W_2, b_2; a norm has a gain and a bias. An encoder layer is one attention, one feed-
    forward and two norms, a decoder layer two, one and three. One matrix serves both embeddings and the output.
    """
    attention = 2 * d_model * h * d_k + 2 * d_model * h * d_v
    feed_forward = 2 * d_model * d_ff + d_ff + d_model
    norm = 2 * d_model
    encoder_layer, decoder_layer = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    return N * (encoder_layer + decoder_layer) + V * d_model + 2 * positions * d_model


BIG = dict(d_model=1024, d_ff=4096, h=16)
# Every row of Table 3: what it changes, and the paper's own number of parameters in millions where it prints one.
TABLE_3: dict[str, tuple[dict[str, int], int | None]] = {
    "base": ({}, 65),
    "A h=1": (dict(h=1, d_k=512, d_v=512), None),
    "A h=4": (dict(h=4, d_k=128, d_v=128), None),
    "A h=16": (dict(h=16, d_k=32, d_v=32), None),
    "A h=32": (dict(h=32, d_k=16, d_v=16), None),
    "B d_k=16": (dict(d_k=16), 58),
    "B d_k=32": (dict(d_k=32), 60),
    "C N=2": (dict(N=2), 36),
    "C N=4": (dict(N=4), 50),
    "C N=8": (dict(N=8), 80),
    "C d_model=256": (dict(d_model=256, d_k=32, d_v=32), 28),
    "C d_model=1024": (dict(d_model=1024, d_k=128, d_v=128), 168),
    "C d_ff=1024": (dict(d_ff=1024), 53),
    "C d_ff=4096": (dict(d_ff=4096), 90),
    "D (dropout and label smoothing)": ({}, None),
    "E learned positions": (dict(positions=1024), None),
    "big": (BIG, 213),
}


@pytest.mark.parametrize("row", [row for row, _ in TABLE_3.values()], ids=TABLE_3.keys())
def test_parameter_counts_of_table_3(row: dict[str, int]) -> None:
    names = {"N": "num_encoder_layers", "h": "num_heads"}
    options: dict[str, Any] = {names.get(key, key): value for key, value in row.items() if key != "positions"}
    if "N" in row:
        options["num_decoder_layers"] = row["N"]
    if "positions" in row:
        options |= {"positions": "learned", "max_positions": row["positions"]}
    with torch.device("meta"):  # shapes only
        model = Transformer(ModelConfig(preset="base", **options), 37000, 37000)
    assert count_parameters(model) == table_3_parameters(**row)


def test_one_vocabulary_gives_the_numbers_that_the_paper_prints() -> None:
    """Not that of the text, "about 37000": one of some 41,100 rows gives all ten to the million, but not big's 213.

    With 37,000 rows base has 63.05 million (printed: 65) and big 214.17.
    """
    lowest, highest = {}, {}
    for name, (row, millions) in TABLE_3.items():
        if millions is not None:
            others, d_model = table_3_parameters(**{**row, "V": 0}), row.get("d_model", 512)
            lowest[name], highest[name] = (((millions + off) * 1e6 - others) / d_model for off in (-0.5, 0.5))
    assert len(lowest) == 11
    big = lowest.pop("big"), highest.pop("big")
    assert (math.ceil(max(lowest.values())), math.floor(min(highest.values()))) == (41_004, 41_208)
    assert (math.ceil(big[0]), math.floor(big[1])) == (35_368, 36_344)


def test_presets_are_table_3_rows_and_the_tiny_shape() -> None:
    with torch.device("meta"):
        sizes = {name: count_parameters(Transformer(ModelConfig(preset=name), 37000, 37000)) for name in PRESETS}  # type: ignore[arg-type]
    assert sizes["base"] == table_3_parameters()
    assert sizes["big"] == table_3_parameters(**BIG)
    assert sizes["tiny"] == table_3_parameters(N=4, d_model=128, d_ff=256, h=4, d_k=32, d_v=32)


def test_sinusoids_are_the_papers_with_columns_permuted() -> None:
    table = sinusoids(50, 8)
    for position in (0, 1, 49):
        for i in range(4):
            angle = torch.tensor(position / 10000 ** (2 * i / 8), dtype=torch.float64)
            assert table[position, i] == pytest.approx(float(angle.sin()), abs=1e-12)
            assert table[position, 4 + i] == pytest.approx(float(angle.cos()), abs=1e-12)


def test_parameter_names_are_a_contract() -> None:
    """Checkpoints and exporters know these names; to rename one is to break every saved model."""
    names = {name for name, _ in small_model(attention_bias=True).named_parameters()}
    attention = {f"{p}_proj.{w}" for p in ("q", "k", "v", "out") for w in ("weight", "bias")}
    rest = {f"{m}.{w}" for m in ("ff.up", "ff.down", "norm1", "norm2") for w in ("weight", "bias")}
    expected = {"src_embed.weight"}
    for layer in range(2):
        expected |= {f"encoder.layers.{layer}.{name}" for name in {f"self_attn.{a}" for a in attention} | rest}
        decoder = {f"{kind}.{a}" for kind in ("self_attn", "cross_attn") for a in attention} | rest
        expected |= {f"decoder.layers.{layer}.{name}" for name in decoder | {"norm3.weight", "norm3.bias"}}
    assert names == expected


@pytest.mark.parametrize("tie", ["all", "none"])
def test_initial_weights_are_xaviers_and_q_k_v_are_one_matrix(tie: str) -> None:
    """Uniform within sqrt(6 / (inputs + outputs)), of q, k and v together; embeddings have variance 1 / d_model."""
    model = small_model(d_model=64, d_ff=96, attention_bias=True, tie_embeddings=tie)
    bounds = {"q_proj": 4 * 64, "k_proj": 4 * 64, "v_proj": 4 * 64, "out_proj": 2 * 64, "up": 64 + 96, "down": 64 + 96}
    for name, parameter in model.named_parameters():
        weights, owner = parameter.detach(), name.split(".")[-2]
        if name.endswith("bias"):
            assert not weights.any(), name
        elif owner in bounds:
            bound = math.sqrt(6 / bounds[owner])
            assert 0.97 * bound < float(weights.abs().max()) <= bound, name
            assert float(weights.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        elif owner.startswith("norm"):
            assert bool((weights == 1).all()), name
        else:  # the embeddings and an output projection of its own: V x 64 numbers
            assert float(weights.std()) == pytest.approx(64**-0.5, rel=0.1), name


@pytest.mark.parametrize("key", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_in_force_in_training_alone(key: str) -> None:
    def losses(model: Transformer) -> list[float]:
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(float(model(collate(SRC, TGT), 0.1)[0].detach()))
        return found

    dropping, plain = small_model(**{key: 0.5}), small_model()
    whole = losses(plain.train())
    assert whole[0] == whole[1] and losses(dropping.eval()) == whole
    dropped = losses(dropping.train())
    assert len({*dropped, whole[0]}) == 3


def test_recomputed_activations_give_the_same_bits() -> None:
    """Dropout draws the same numbers again, so that loss and gradients are equal, not only close."""
    found = []
    for recompute in (False, True):
        model = small_model(dropout=0.4, attention_dropout=0.2).train()
        model.recompute_activations = recompute
        torch.manual_seed(1)
        loss, _ = model(collate(SRC, TGT), 0.1)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_recomputing_keeps_less() -> None:
    """Of what autograd saves between the passes, counted in elements."""
    kept = []
    for recompute in (False, True):
        model = small_model(num_encoder_layers=6, num_decoder_layers=6).train()
        model.recompute_activations = recompute
        sizes: list[int] = []

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(collate(SRC, TGT), 0.1)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3

"""`scripts/measure_table1.py` and `scripts/why_scaled.py`: what they count exactly. Times are not tested."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.attention import MultiHeadAttention, attention
from transformer_mt.model.heads import heads_of
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer

N, D, HEADS = 24, 128, 2
SENTENCES = [[7, 8, 9, 10, 3]], [[11, 12, 13, 3]]


@pytest.fixture(scope="module")
def table1() -> Any:
    return script("measure_table1")


@pytest.fixture(scope="module")
def why_scaled() -> Any:
    return script("why_scaled")


def script(name: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[0]


def tiny() -> Transformer:
    torch.manual_seed(1)
    shape: dict[str, Any] = dict(d_model=16, d_ff=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    return Transformer(ModelConfig(**shape, dropout=0.0), 20, 20).eval()


# Table 1.


def test_multiply_adds_are_those_of_table_1(table1: Any) -> None:
    products = 2 * N * N * D  # queries by keys, weights by values
    window = 2 * table1.WINDOW
    expected = {
        table1.Alone: products,
        table1.Plain: products,
        table1.Projected: products + 4 * N * D * D,
        table1.Restricted: 2 * table1.WINDOW * window * D,  # one block of r queries
        table1.Recurrent: 2 * 3 * N * D * D,  # two matrices for two gates and the candidate
        table1.Convolution: 3 * N * D * D,
    }
    assert {layer.build for layer in table1.LAYERS} == {*expected}
    for layer in table1.LAYERS:
        x = torch.randn(1, N, layer.columns * D)
        assert table1.multiply_adds(layer.build(D), x) == expected[layer.build], layer.name


def test_kept_memory_grows_with_the_square_of_the_length_in_attention_only(table1: Any) -> None:
    def kept(build: Any, columns: int, length: int) -> int:
        return int(table1.kept_bytes(build(D), torch.randn(1, length, columns * D, requires_grad=True)))

    # Rows and weights, in float32: nothing else.
    assert kept(table1.Alone, 3, N) == 4 * (3 * N * D + HEADS * N * N)
    assert kept(table1.Convolution, 1, N) == 4 * N * D
    # a·n² + b·n: what doubling adds, less what it would add to a line, is 2·a·n².
    for build, columns in [(table1.Plain, 3), (table1.Projected, 1)]:
        assert kept(build, columns, 4 * N) - 2 * kept(build, columns, 2 * N) >= 8 * 4 * HEADS * N * N, build
    for build in (table1.Recurrent, table1.Convolution):
        assert kept(build, 1, 2 * N) == 2 * kept(build, 1, N), build
    dot, additive = (kept(build, 3, N) for build in (table1.Dot, table1.Additive))
    assert additive - dot >= 4 * N * N * D - 4 * 2 * N * D  # the table of tanh; q and k themselves it needs not


def test_restricted_attention_is_equation_1_with_a_band(table1: Any) -> None:
    length, half = 150, table1.WINDOW // 2
    x = torch.randn(2, length, 3 * D)
    q, k, v = heads_of(x, HEADS, [D // HEADS] * 3)
    positions = torch.arange(length)
    band = (positions[:, None] - positions).abs() <= half
    expected = attention(q, k, v, band, nn.Identity())[0].transpose(1, 2).flatten(2)
    torch.testing.assert_close(table1.Restricted(D)(x), expected, atol=1e-5, rtol=1e-5)


def test_additive_scores_are_those_of_each_pair(table1: Any) -> None:
    layer = table1.Additive(4)
    q, k = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    expected = [[torch.tanh(q[0, i] + k[0, j]).dot(layer.v_D).item() for j in range(3)] for i in range(3)]
    torch.testing.assert_close(layer.scores(q, k)[0], torch.tensor(expected))


def test_exponents_and_crossovers_of_known_curves(table1: Any) -> None:
    sizes = [8, 16, 32, 64, 128]
    squares, lines = [3.0 * n**2 for n in sizes], [3.0 * 50 * n for n in sizes]
    assert table1.exponent(sizes, squares, 8) == pytest.approx(2)
    assert table1.exponent(sizes, [7.0, 7.0, *lines[2:]], 32) == pytest.approx(1)  # the upper range only
    assert table1.crossover(sizes, squares, lines) == "50"
    assert table1.crossover(sizes, squares, [1.0] * 5) == "below 8"
    assert table1.crossover(sizes[:2], squares[:2], lines[:2]) == "above 16"


def test_table_1_is_measured(table1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        table1.main(["--quick", "--json", str(tmp_path / "t.json"), "--figure", str(tmp_path / "t.svg")])
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "t.json").read_text())
    assert {row["layer"] for row in rows} == {layer.name for layer in [*table1.LAYERS, table1.DOT, table1.ADDITIVE]}
    assert all(len(row["forward"]) == len(row["both"]) == 3 for row in rows)
    assert "| O(n²·d) | n^2.00 d^1.00 |" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "t.svg").read_text()


# Why scaled.


def test_a_softmax_is_saturated_where_one_weight_is_nearly_all(why_scaled: Any) -> None:
    seen = why_scaled.Softmax()
    seen.see(torch.tensor([[9.0, 0.0, 0.0], [2.0, 2.0, 2.0], [1.0, 1.0, -math.inf], [5.0, -math.inf, -math.inf]]))
    weight = math.exp(9) / (math.exp(9) + 2)
    sharp = -weight * math.log(weight) - (1 - weight) * math.log((1 - weight) / 2)
    assert seen.means()["saturated"] == 2 / 4
    assert seen.means()["entropy"] == pytest.approx((sharp + math.log(3) + math.log(2)) / 4)


def test_products_of_random_vectors_have_variance_d_k(why_scaled: Any) -> None:
    narrow, wide = (why_scaled.random_vectors(d_k, seed=1) for d_k in (4, 128))
    assert narrow["variance"] == pytest.approx(4, rel=0.1) and wide["variance"] == pytest.approx(128, rel=0.1)
    assert narrow["without"]["saturated"] < 0.01 < 0.3 < wide["without"]["saturated"]
    assert wide["with"]["saturated"] == 0
    assert wide["without"]["gradient_at_scores"] < wide["with"]["gradient_at_scores"] / 3


def test_without_the_scale_queries_are_longer_by_it(why_scaled: Any) -> None:
    batch, model = collate(*SENTENCES), tiny()
    with why_scaled.unscaled():
        other = tiny()
    assert tiny().state_dict().keys() == other.state_dict().keys()  # and again with the scale
    with torch.no_grad():
        assert (model.logits(batch) - other.logits(batch)).abs().max() > 1e-3
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                assert module.scale == 8**-0.5
                module.q_proj.weight *= 8**0.5
        torch.testing.assert_close(model.logits(batch), other.logits(batch), atol=1e-5, rtol=1e-5)


def test_a_model_is_looked_at_where_the_answer_is_known(why_scaled: Any) -> None:
    model = tiny()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, MultiHeadAttention):
                layer.q_proj.weight.zero_()
    even = why_scaled.look_at(model, [collate(*SENTENCES)])
    entropies = {"encoder": math.log(5), "decoder": math.log(2 * 3 * 4) / 3, "cross": math.log(5)}
    for use, entropy in entropies.items():
        assert even[use]["variance"] == even[use]["with"]["saturated"] == 0
        assert even[use]["with"]["entropy"] == pytest.approx(entropy)
    # All queries are one vector, all keys that vector or its opposite: q·k = ±K·100.
    q_HLK, k_HMK = torch.full((2, 4, 8), 10.0), torch.full((2, 5, 8), 10.0)
    k_HMK[:, :4] *= -1
    seen = why_scaled.Seen()
    seen.see(q_HLK @ k_HMK.mT, False, 8**-0.5)
    seen.gradient_q = seen.gradient_v = 1.0
    assert seen.means()["variance"] == pytest.approx(800**2 * (1 - 0.6**2))
    assert seen.means()["variance_within_rows"] == pytest.approx(800**2 * (1 - 0.6**2))
    assert seen.means()["without"]["saturated"] == seen.means()["with"]["saturated"] == 1
    # A causal row has no more keys than positions so far; the first says nothing of softmax.
    causal = why_scaled.Seen(gradient_v=1.0)
    causal.see(torch.tensor([[[5.0, 9.0, 9.0], [1.0, 3.0, 9.0], [0.0, 3.0, 6.0]]]), True, 1.0)
    assert causal.means()["variance"] == pytest.approx(statistics.pvariance([5, 1, 3, 0, 3, 6]))
    assert causal.means()["variance_within_rows"] == pytest.approx((1 + 6) / 2)
    assert causal.with_scale.num_rows == 2


def test_losses_are_drawn(why_scaled: Any, tmp_path: Path) -> None:
    runs = [
        {"shape": shape, "with_scale": with_scale, "seed": 1, "loss": {10: 5.0, 20: 4.0}}
        for shape in ("d_k 32", "d_k 128")
        for with_scale in (True, False)
    ]
    why_scaled.draw(runs, tmp_path / "losses.svg")
    drawn = (tmp_path / "losses.svg").read_text()
    assert [drawn.count(f"stroke: {colour}") > 0 for colour in ("#0072b2", "#d55e00")] == [True, True]


# Model FLOPs of an update, for `scripts/gpu_parts.py`.


def test_flops_of_an_update_are_those_that_torch_counts() -> None:
    """Of one pair without padding; its counter knows no `addmm_`, by which the loss adds to its weight's gradient."""
    config = ModelConfig(d_model=32, d_ff=48, num_heads=2, num_encoder_layers=2, num_decoder_layers=3, dropout=0.0)
    num_pieces, src_length, tgt_length = 101, 128, 64
    model = Transformer(config, num_pieces, num_pieces)
    with FlopCounterMode(display=False) as counter:
        loss, _ = model(collate([[7] * src_length], [[7] * tgt_length]))
        loss.backward()
    upper_half = config.num_decoder_layers * tgt_length**2 * config.d_model  # of scores and sums, computed as well
    not_counted = num_pieces * tgt_length * config.d_model
    lengths = np.array([src_length]), np.array([tgt_length])
    flops = script("gpu_parts").training_flops(config, num_pieces, *lengths)
    assert counter.get_total_flops() == flops + 3 * 2 * upper_half - 2 * not_counted

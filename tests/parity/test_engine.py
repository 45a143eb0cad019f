"""The engine, which search runs, against the model that was trained: teacher-forced log-softmax of `Transformer.logits`
in float64, another path through the same weights.

Legend: B sentences, W hypotheses of each, V columns of the vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding import prepared_linear
from transformer_mt.decoding.engine import VOCAB_MULTIPLE, Engine, EngineState
from transformer_mt.errors import InputError
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.search.beam import search
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.scorer import StepScorer
from transformer_mt.search.scoring import length_penalty
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID

Path = tuple[int, ...]  # ids of a hypothesis behind <s>
V_SRC, V_TGT = 30, 70

SMALL: dict[str, Any] = dict(d_model=16, d_ff=24, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"tie_embeddings": "target"},
    "pre-norm": {"norm": "pre", "tie_embeddings": "target", "activation": "swish"},
    "learned positions": {"positions": "learned", "max_positions": 80, "tie_embeddings": "none", "norm": "pre"},
    "attention biases": {"attention_bias": True, "tie_embeddings": "none", "activation": "gelu"},
    # 5 heads on 16 columns, keys and values of different sizes.
    "free head sizes": {"d_k": 3, "d_v": 7, "num_heads": 5, "attention_bias": True, "norm": "pre"},
    "small values": {"d_k": 5, "d_v": 2, "num_heads": 3, "num_encoder_layers": 1, "num_decoder_layers": 3},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
# Every matrix is above the limit below which products stay in float32.
LARGE: dict[str, Any] = dict(d_model=384, d_ff=512, num_heads=6, num_encoder_layers=1, num_decoder_layers=1)
V_LARGE = 400

LENGTHS = [3, 16, 1, 40, 17, 2]  # a table of source positions is a multiple of 16: 16 fill it, and 17 need the next
# One row, five, fewer, more; the pool is made anew several times on the way.
WIDTHS = [1, *[5] * 12, 3, 3, *[7] * 6]
LEAVING = [4, 9, 15]

# float32: the smaller models are off by 2e-6 at most. In the larger one, products have up to 512 summands and logits
# are up to 16 in size; there the model's own float32 logits are off by 6e-6 and the engine's by 1.1e-5.
FLOAT32, FLOAT32_LARGE = 1e-5, 3e-5
# Lower precisions: twice what was found (0.054 and 0.097, of log-probabilities with a standard deviation of 1 to 1.5).
# A projection, bias or scale that is not the right one shows as 0.5 or more.
LOWER = {"bfloat16": 0.11, "int8": 0.2}


def make_model(options: dict[str, Any], src_size: int = V_SRC, tgt_size: int = V_TGT) -> Transformer:
    """With biases and norms that are not what they start as: zeros and ones would hide a mistake."""
    torch.manual_seed(7)
    config = ModelConfig(**(SMALL | options))
    model = Transformer(config, tgt_size if config.tie_embeddings == "all" else src_size, tgt_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def willing_to_end(model: Transformer) -> Transformer:
    """Move the logit of </s> by 1 along the bias that every decoder output has."""
    norm = model.decoder.norm if model.config.norm == "pre" else model.decoder.layers[-1].norm3
    assert isinstance(norm, torch.nn.LayerNorm)
    with torch.no_grad():
        model.generator.weight[EOS_ID].add_(norm.bias / norm.bias.square().sum())
    return model


def sources(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    random = Random(seed)
    return [[*random.choices(range(4, V_SRC), k=length - 1), EOS_ID] for length in lengths]


def teacher_forced(model: Transformer, src: Sequence[list[int]], paths: Sequence[Path]) -> list[Tensor]:
    """The log-probabilities (T + 1, V) of what follows each prefix of a source's path, in float64."""
    with torch.no_grad():
        logits_NV = copy.deepcopy(model).double().logits(collate(src, [[*path, EOS_ID] for path in paths]))
    return list(logits_NV.log_softmax(-1).split([len(path) + 1 for path in paths]))


@dataclass
class Walk:
    """What an engine said along random paths."""

    src: list[list[int]]
    found: list[tuple[int, Path, Tensor]]  # a sentence, the ids fed, and the log-probabilities (V) of the next
    state: EngineState

    def expected(self, model: Transformer) -> list[Tensor]:
        """The same of a model; every path that goes on in no other is fed to it once."""
        places: dict[tuple[int, Path], tuple[int, int]] = {}
        leaves: list[tuple[int, Path]] = []
        for s, path in sorted({(s, path) for s, path, _ in self.found}, key=lambda place: -len(place[1])):
            if (s, path) not in places:
                for t in range(len(path) + 1):
                    places.setdefault((s, path[:t]), (len(leaves), t))
                leaves.append((s, path))
        forced = teacher_forced(model, [self.src[s] for s, _ in leaves], [path for _, path in leaves])
        return [forced[leaf][t] for leaf, t in (places[s, path] for s, path, _ in self.found)]

    def greatest_difference(self, model: Transformer) -> float:
        pairs = zip(self.found, self.expected(model), strict=True)
        return max(
            float((logp_V[: len(wanted_V)].double() - wanted_V).abs().max()) for (_, _, logp_V), wanted_V in pairs
        )


@torch.inference_mode()
def walk(
    engine: Engine,
    src: list[list[int]],
    num_ids: int,
    widths: Sequence[int] = WIDTHS,
    leaving: Sequence[int] = LEAVING,
    is_crossing: bool = True,
) -> Walk:
    """One step for each width. Between them rows continue random rows, or each itself, and a sentence leaves behind
    every step in ``leaving``."""
    random = Random(1)
    sentences = list(range(len(src)))
    rows: list[list[Path]] = [[()] for _ in src]
    last_BW = torch.full((len(src), 1), BOS_ID)
    found = []
    state = engine.start(src)
    for t, W in enumerate(widths, 1):
        logp_BWV = engine.step(state, last_BW)
        for b, s in enumerate(sentences):
            found += [(s, path, logp_V.clone()) for path, logp_V in zip(rows[b], logp_BWV[b], strict=True)]
        if t == len(widths):
            break
        W, num_rows = widths[t], W
        keep = list(range(len(sentences)))
        if t in leaving:
            keep.remove(random.choice(keep))
        parents = [[random.randrange(num_rows) if is_crossing or w >= num_rows else w for w in range(W)] for _ in keep]
        ids = [[random.randrange(num_ids) for _ in range(W)] for _ in keep]
        state.select(torch.tensor(keep) if t in leaving else None, torch.tensor(parents))
        rows = [[(*rows[b][p], i) for p, i in zip(*of, strict=True)] for b, *of in zip(keep, parents, ids, strict=True)]
        sentences, last_BW = [sentences[b] for b in keep], torch.tensor(ids)
    return Walk(src, found, state)


@variants
@pytest.mark.parametrize("small_weight", [0, prepared_linear._SMALL_WEIGHT])
def test_every_step_is_the_models(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], small_weight: int) -> None:
    """With and without weights that count as small; for a number of rows on either side of what counts as few."""
    monkeypatch.setattr(prepared_linear, "_SMALL_WEIGHT", small_weight)
    model = make_model(options)
    walked = walk(Engine(model, "float32"), sources(LENGTHS), V_TGT)
    assert {logp_V.dtype for _, _, logp_V in walked.found} == {torch.float32}
    assert walked.greatest_difference(model) < FLOAT32


def test_every_step_of_a_model_whose_weights_are_all_packed() -> None:
    model = make_model(LARGE, tgt_size=V_LARGE)
    assert all(p.numel() >= prepared_linear._SMALL_WEIGHT for p in model.parameters() if p.dim() == 2)
    walked = walk(Engine(model, "float32"), sources(LENGTHS), V_LARGE)
    assert walked.greatest_difference(model) < FLOAT32_LARGE


@variants
def test_a_float64_model_is_searched_in_float64(options: dict[str, Any]) -> None:
    model = make_model(options).double()
    walked = walk(Engine(model, "float32"), sources(LENGTHS), V_TGT)
    assert {logp_V.dtype for _, _, logp_V in walked.found} == {torch.float64}
    assert walked.greatest_difference(model) < 1e-10


@variants
def test_rows_in_bfloat16_stay_near(options: dict[str, Any]) -> None:
    """As they are on a GPU: tables, norms and softmax too, but for the log-probabilities."""
    model = make_model(options).bfloat16()
    walked = walk(Engine(model, "float32"), sources(LENGTHS), V_TGT)
    assert {logp_V.dtype for _, _, logp_V in walked.found} == {torch.float32}
    assert 1e-3 < walked.greatest_difference(model) < LOWER["bfloat16"]  # found: 0.042 to 0.068


@variants
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precisions_stay_near(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], precision: str) -> None:
    """And they are really used."""
    monkeypatch.setattr(prepared_linear, "_SMALL_WEIGHT", 0)
    model = make_model(options)
    walked = walk(Engine(model, precision), sources(LENGTHS), V_TGT)
    assert 1e-3 < walked.greatest_difference(model) < LOWER[precision]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precisions_of_a_larger_model_stay_near(precision: str) -> None:
    model = make_model(LARGE, tgt_size=V_LARGE)
    walked = walk(Engine(model, precision), sources(LENGTHS), V_LARGE)
    assert 1e-3 < walked.greatest_difference(model) < LOWER[precision]


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("num_ids", [63, 64, 65])
def test_columns_of_padding_have_no_probability(monkeypatch: pytest.MonkeyPatch, num_ids: int, precision: str) -> None:
    monkeypatch.setattr(prepared_linear, "_SMALL_WEIGHT", 0)
    engine = Engine(make_model({}, tgt_size=num_ids), precision)
    state = engine.start(sources([4, 2]))
    for _ in range(3):
        logp_BWV = engine.step(state, torch.tensor([[5], [6]]))
        assert logp_BWV.is_contiguous()
        assert logp_BWV.shape == (2, 1, -(-num_ids // VOCAB_MULTIPLE) * VOCAB_MULTIPLE)
        assert (logp_BWV[:, :, num_ids:] == -math.inf).all()
        torch.testing.assert_close(logp_BWV[:, :, :num_ids].exp().sum(-1), torch.ones(2, 1))


@pytest.mark.parametrize("options", [VARIANTS["paper"], VARIANTS["free head sizes"]])
@pytest.mark.parametrize("is_crossing", [False, True])
def test_a_pool_that_is_full_is_cleared_out_and_enlarged(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], is_crossing: bool
) -> None:
    """Where rows stay apart all positions are kept and the pool grows; where they cross most are thrown out."""
    capacities: list[tuple[int, int, int]] = []
    make_room = EngineState._make_room

    def noted(state: EngineState, num_positions: int) -> None:
        before = state.filled
        make_room(state, num_positions)
        capacities.append((before, state.filled, state.pool_bias_BWP.shape[2]))

    monkeypatch.setattr(EngineState, "_make_room", noted)
    model = make_model(options)
    widths = [1, *[6] * 70]
    walked = walk(Engine(model, "float32"), sources([5, 17]), V_TGT, widths, is_crossing=is_crossing, leaving=[50])
    assert walked.greatest_difference(model) < FLOAT32
    assert 4 <= len(capacities) <= 10  # each leaves as much room again as is used: it is not done at every step
    assert capacities[-1][2] > 2 * capacities[0][2]
    if is_crossing:
        assert walked.state.filled < sum(widths) / 2
        assert all(after < before for before, after, _ in capacities[1:])
    else:
        assert walked.state.filled == sum(widths)


def test_more_positions_than_the_first_table_has() -> None:
    """Sinusoids are worked out for 256 positions first."""
    model = make_model({"num_encoder_layers": 1, "num_decoder_layers": 1})
    widths = [1, *[2] * 269]
    walked = walk(Engine(model, "float32"), sources([300, 5]), V_TGT, widths, leaving=[], is_crossing=False)
    assert walked.greatest_difference(model) < FLOAT32


@torch.inference_mode()
def test_learned_positions_end_where_their_table_ends() -> None:
    engine = Engine(make_model({"positions": "learned", "max_positions": 8}), "float32")
    with pytest.raises(InputError, match="9 positions is longer than the learned table of 8"):
        engine.start(sources([9]))
    state = engine.start(sources([8]))
    for _ in range(8):
        assert engine.step(state, torch.tensor([[5]])).isfinite().any()
    with pytest.raises(InputError, match="9 positions is longer than the learned table of 8"):
        engine.step(state, torch.tensor([[5]]))


@variants
def test_what_stands_in_memory_before_it_is_written_counts_nothing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model = make_model(options)
    clean = walk(Engine(model, "float32"), sources(LENGTHS), V_TGT)
    new_empty: Callable[..., Tensor] = Tensor.new_empty
    num_filled = 0

    def dirty(like: Tensor, *size: Any, **options: Any) -> Tensor:
        nonlocal num_filled
        num_filled += 1
        return new_empty(like, *size, **options).fill_(math.nan)

    monkeypatch.setattr(Tensor, "new_empty", dirty)
    walked = walk(Engine(model, "float32"), sources(LENGTHS), V_TGT)
    monkeypatch.undo()
    assert num_filled >= 4  # a state and its pools
    for (_, _, logp_V), (_, _, clean_V) in zip(walked.found, clean.found, strict=True):
        assert torch.equal(logp_V, clean_V)
    assert all(logp_V[:V_TGT].isfinite().all() for _, _, logp_V in walked.found)


@torch.inference_mode()
def test_states_of_one_engine_do_not_know_of_each_other() -> None:
    engine = Engine(make_model({}), "float32")
    states = [engine.start(sources([4, 20])), engine.start(sources([7], seed=2))]
    lasts = [torch.tensor([[5], [6]]), torch.tensor([[7]])]
    by_turns = [[engine.step(states[i], lasts[i]).clone() for i in (0, 1)] for _ in range(20)]
    for i, src in enumerate((sources([4, 20]), sources([7], seed=2))):
        state = engine.start(src)
        assert all(torch.equal(engine.step(state, lasts[i]), both[i]) for both in by_turns)


@torch.inference_mode()
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", FLOAT32_LARGE), ("int8", 0.01)])
@pytest.mark.parametrize("lengths", [[9] * 6, [9, 3, 14, 1, 12, 40]])
def test_neighbours_change_no_log_probability(precision: str, tolerance: float, lengths: list[int]) -> None:
    """A row's integers are its own. The float32 parts between are not the same to the bit in batches of other shapes,
    and where they bring a number from one side of a half to the other, it is rounded to another integer: hence the
    tolerance, a tenth of what int8 itself costs."""
    engine = Engine(make_model(LARGE, tgt_size=V_LARGE), precision)
    src = sources(lengths)
    src[1][:-1] = [29] * (len(src[1]) - 1)
    ids = torch.randint(V_LARGE, (12, len(src), 4), generator=torch.Generator().manual_seed(3))

    def steps(chosen: list[int]) -> Tensor:
        state = engine.start([src[i] for i in chosen])
        engine.step(state, torch.full((len(chosen), 1), BOS_ID))
        state.select(None, torch.zeros(len(chosen), 4, dtype=torch.int64))
        found = []
        for ids_BW in ids[:, chosen]:
            found.append(engine.step(state, ids_BW)[:, :, :V_LARGE].clone())
            state.select(None, torch.tensor([[0, 0, 3, 1]] * len(chosen)))
        return torch.stack(found, dim=1)

    together = steps(list(range(len(src))))
    for i in range(len(src)):
        torch.testing.assert_close(steps([i])[0], together[i], rtol=0, atol=tolerance)


class Recomputed:
    """Scores a step with the whole model over all ids again, in float64: no state but the ids, no padding of V."""

    device = torch.device("cpu")

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def start(self, src: list[list[int]]) -> Rows:
        return Rows(src, [[()] for _ in src])

    def step(self, state: Rows, last_BW: Tensor) -> Tensor:
        fed = zip(state.rows, last_BW.tolist(), strict=True)
        state.rows = [[(*path, i) for path, i in zip(paths, ids, strict=True)] for paths, ids in fed]
        B, W = last_BW.shape
        src = [ids for ids in state.src for _ in range(W)]
        forced = teacher_forced(self._model, src, [path[1:] for paths in state.rows for path in paths])
        return torch.stack([logp_TV[-1] for logp_TV in forced]).float().view(B, W, -1)


@dataclass
class Rows:
    src: list[list[int]]
    rows: list[list[Path]]  # with <s>

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        keep = range(len(self.src)) if keep_B is None else keep_B.tolist()
        chosen = zip(keep, parents_BW.tolist(), strict=True)
        self.rows = [[self.rows[b][w] for w in parents] for b, parents in chosen]
        self.src = [self.src[b] for b in keep]

    def make_room(self, num_positions: int) -> None:
        pass


RULES: dict[str, Any] = {"min_tokens": 6, "no_repeat_ngram": 2}
SEARCHES: dict[str, SearchConfig] = {
    "greedy": SearchConfig(beam_size=1, max_extra_tokens=6),
    "greedy with rules": SearchConfig(beam_size=1, max_extra_tokens=6, **RULES),
    "beam": SearchConfig(beam_size=4, n_best=3, max_extra_tokens=6, length_penalty_form="power", length_penalty=1.0),
    "beam with rules": SearchConfig(beam_size=4, n_best=3, max_extra_tokens=6, **RULES),
    "wide beam": SearchConfig(beam_size=40, n_best=40, max_extra_tokens=1, length_penalty=1.0),
    "sampling": SearchConfig(sampling=True, n_best=3, max_extra_tokens=6, top_k=20),
    "sampling with rules": SearchConfig(sampling=True, n_best=3, max_extra_tokens=6, top_p=0.9, **RULES),
}
searches = pytest.mark.parametrize("config", SEARCHES.values(), ids=SEARCHES.keys())
# More than eight, so that sentences that are done stay in the batch for a while; some start with ids of their own.
SEARCHED = [3, 7, 1, 9, 2, 5, 5, 1, 8, 4, 6, 2, 7, 3, 1, 10, 2, 4]
PREFIXES = [[5, 6], [], [UNK_ID], [9], [], [7, 7, 7, 7], *[[] for _ in SEARCHED[6:-1]], [11, 12, 13, 14, 15, 16, 17]]


def run(
    scorer: StepScorer[Any], src: list[list[int]], config: SearchConfig, prefixes: list[list[int]] | None
) -> list[list[Hypothesis]]:
    return search(
        scorer,
        src,
        config,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        forbidden_ids=(PAD_ID, UNK_ID, BOS_ID),
        prefixes=prefixes,
    )


@searches
@pytest.mark.parametrize("prefixes", [None, PREFIXES], ids=["", "prefixes"])
@pytest.mark.parametrize("options", [VARIANTS["paper"], VARIANTS["free head sizes"]], ids=["post", "pre"])
def test_a_hypothesis_has_the_log_probability_that_the_model_gives_it(
    options: dict[str, Any], config: SearchConfig, prefixes: list[list[int]] | None
) -> None:
    """Over all ids, whatever the rules of the search leave of them; to 1e-5 an id."""
    model, src = willing_to_end(make_model(options)), sources(SEARCHED)
    found = run(Engine(model, "float32"), src, config, prefixes)
    if prefixes is None:
        assert [len(hypotheses) for hypotheses in found] == [config.n_best] * len(src)
    placed = [(s, hypothesis) for s, hypotheses in enumerate(found) for hypothesis in hypotheses]
    forced = teacher_forced(model, [src[s] for s, _ in placed], [tuple(hypothesis.ids) for _, hypothesis in placed])
    for (s, hypothesis), logp_TV in zip(placed, forced, strict=True):
        if prefixes is not None:
            assert hypothesis.ids[: len(prefixes[s])] == prefixes[s]
        length = len(hypothesis.ids) + 1
        expected = float(logp_TV.gather(1, torch.tensor([[*hypothesis.ids, EOS_ID]]).T).sum())
        assert hypothesis.log_prob == pytest.approx(expected, rel=0, abs=1e-5 * length)
        penalty = length_penalty(length, config.length_penalty, config.length_penalty_form)
        assert hypothesis.score == pytest.approx(hypothesis.log_prob / penalty)


@searches
@pytest.mark.parametrize("prefixes", [None, PREFIXES], ids=["", "prefixes"])
@pytest.mark.parametrize("options", [VARIANTS["paper"], VARIANTS["free head sizes"]], ids=["post", "pre"])
def test_search_finds_with_the_engine_what_it_finds_with_the_model(
    options: dict[str, Any], config: SearchConfig, prefixes: list[list[int]] | None
) -> None:
    model, src = willing_to_end(make_model(options)), sources(SEARCHED)
    found = run(Engine(model, "float32"), src, config, prefixes)
    assert_same(found, run(Recomputed(model), src, config, prefixes))
    if prefixes is None and config.length_penalty_form == "power":
        lengths = {len(hypothesis.ids) for hypotheses in found for hypothesis in hypotheses}
        assert len(lengths) > 6, "the model ends its sentences all alike"


@pytest.mark.parametrize(
    "config",
    [SearchConfig(beam_size=4, n_best=2, max_extra_tokens=4), SearchConfig(beam_size=1, max_extra_tokens=4)],
    ids=["beam", "greedy"],
)
def test_batches_of_any_size_and_order_find_the_same(config: SearchConfig) -> None:
    engine = Engine(willing_to_end(make_model(VARIANTS["pre-norm"])), "float32")
    src = sources(Random(5).choices(range(1, 20), k=64))
    expected = run(engine, src, config, None)
    for size in (1, 7, 64):
        order = Random(size).sample(range(len(src)), len(src))
        found: list[list[Hypothesis]] = [[] for _ in src]
        for first in range(0, len(src), size):
            chosen = order[first : first + size]
            for s, hypotheses in zip(chosen, run(engine, [src[s] for s in chosen], config, None), strict=True):
                found[s] = hypotheses
        assert_same(found, expected)


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.ids for h in ours] == [h.ids for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], rel=0, abs=1e-4)

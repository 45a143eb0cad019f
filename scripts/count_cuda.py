"""Count what a GPU would do in an update of the weights and in a step of search, without one, and estimate its time.

    python scripts/count_cuda.py [--preset base --preset big] [--micro-tokens N] [--kernels]

Counted on tensors without contents (`tests/fake_cuda/fake_gpu.py`), not measured: kernels, arithmetic and memory
traffic of the training loop's own calls in bfloat16, with the paper's batches: 25,000 source and 25,000 target tokens,
37,000 pieces, lengths around 27. The estimate of the device's time is

    sum over products of max(FLOP / rate, bytes / bandwidth) + all other bytes / bandwidth + kernels · gap

Products are matrix products and attention, of which a sequence of up to 128 positions costs a whole tile of 128 × 128.
Rates are what large products and copies reach, four fifths or more of the data sheet's: 790 TFLOP/s in bfloat16 on
both chips, 4.3 TB/s on an H200, 3.0 on an H100. No further losses are assumed, although small products reach less; and
nothing that the cache keeps between two kernels. Between two kernels passes no time, or 2 µs, the larger figure.

The host's time is estimated too: calls of the update, views and other calls that launch nothing among them, times the
time of a call, measured here as the processor's time of an update on a CPU with so small a model and batch that there
is next to nothing to compute, by its number of calls. That has Python, autograd and dispatch in it; it lacks the
driver's launches, some 2 µs each, and the making of batches, which another thread does.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_cuda.fake_gpu import Count, fake_gpu
from gpu_parts import FULL, lengths

from transformer_mt.config.sections import Config, SearchConfig
from transformer_mt.data.batching import Lengths, Part, cut_update, plan_windows
from transformer_mt.decoding.engine import Engine, EngineState
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.search import beam
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID
from transformer_mt.training.update import Updater

RATES = {"H200": (790e12, 4.3e12), "H100": (790e12, 3.0e12)}  # FLOP/s, bytes/s
GAP_SECONDS = 2e-6
SENTENCES, BEAM_SIZE = 64, 4
COUNTED_STEP = 3  # of search: the last before the host looks at what was found


def configuration(preset: str, precision: str = "bfloat16") -> Config:
    return Config.model_validate(
        {
            "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "en", "tgt": "de"}]},
            "model": {"preset": preset},
            "optim": {"clip_norm": 1.0},
            "train": {"precision": precision, "ema_decay": 0.999},
        }
    )


def random_ids(lengths: Lengths) -> list[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    return [rng.integers(4, FULL.num_pieces, length) for length in lengths]


def paper_update(micro_tokens: int) -> list[Batch]:
    """Return the micro-batches of the update whose mean length is nearest to the corpus's."""
    src, tgt = lengths(FULL.num_pairs)
    budget = {"max_tokens": FULL.update_tokens, "max_source_tokens": FULL.update_tokens}
    windows = plan_windows(src, tgt, [Part(0, 0, len(src))], [1.0], seed=1, epoch=0, **budget)
    pairs = min(itertools.chain.from_iterable(windows), key=lambda pairs: abs(tgt[pairs].mean() - tgt.mean()))
    [micro_batches] = cut_update(pairs, src, tgt, num_ranks=1, micro_tokens=micro_tokens)
    return [collate(random_ids(src[micro]), random_ids(tgt[micro]), ROWS_MULTIPLE) for micro in micro_batches]


def update_of(
    config: Config, device: torch.device, batches: list[Batch], num_pieces: int = FULL.num_pieces
) -> Callable[[], object]:
    """Return a function that does one update after the other; the first has been done."""
    with device:
        model = Transformer(config.model, num_pieces, num_pieces).train()
    updater, num_labels = Updater(model, config, device, Ranks()), sum(batch.num_labels for batch in batches)

    def update() -> object:
        updater.begin()
        for batch in batches:
            updater.add(batch, num_labels)
        return updater.finish(1)

    update()
    return update


def count_update(config: Config, batches: list[Batch], device: torch.device) -> Count:
    update, count = update_of(config, device, batches), Count()
    with count:
        update()
    return count


def count_step(config: Config, src: list[list[int]], device: torch.device) -> Count:
    """Count one step of beam search: what its scores, the choice of candidates and their moves take."""
    with device:
        model = Transformer(config.model, FULL.num_pieces, FULL.num_pieces).eval()
    engine, count, steps, counting = Engine(model, config.train.precision), Count(), itertools.count(1), ExitStack()
    engine_step = engine.step

    def step(state: EngineState, last_BW: torch.Tensor) -> torch.Tensor:
        if (number := next(steps)) == COUNTED_STEP:
            counting.enter_context(count)
        if number > COUNTED_STEP:
            raise StopIteration
        return engine_step(state, last_BW)

    engine.step = step  # type: ignore[method-assign]
    search = SearchConfig(beam_size=BEAM_SIZE)
    with counting, suppress(StopIteration):
        beam.search(engine, src, search, bos_id=BOS_ID, eos_id=EOS_ID, forbidden_ids=[PAD_ID, BOS_ID])
    return count


def seconds_of_a_call(preset: str) -> float:
    """Return the processor's median time of an update of a model of next to no width, by its number of calls."""
    config = configuration(preset, "float32")
    thin = config.model.model_copy(update={"d_model": 8, "d_ff": 8, "num_heads": 2, "d_k": 4, "d_v": 4})
    ids = [np.array([5, 6, 3]), np.array([7, 3])]
    update = update_of(config.model_copy(update={"model": thin}), torch.device("cpu"), [collate(ids, ids)], 64)
    count = Count()
    with count:
        update()
    seconds = []
    for _ in range(30):
        start = time.process_time()
        update()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) / count.calls


def row(name: str, count: Count) -> str:
    flop, product_bytes = (sum(getattr(cost, kind) for cost in count.products) for kind in ("flop", "bytes"))
    estimates = [
        f"{count.milliseconds(*rates):#.3g} to {count.milliseconds(*rates, GAP_SECONDS):#.3g}"
        for rates in RATES.values()
    ]
    copies = f"{len(count.host_to_device)} ({sum(count.host_to_device) / 1e6:.1f} MB)"
    numbers = [
        f"{count.kernels:,}",
        f"{flop / 1e12:.2f}",
        f"{product_bytes / 1e9:.1f}",
        f"{count.other_bytes / 1e9:.1f}",
    ]
    return " | ".join(["", name, *numbers, copies, *estimates, ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=("tiny", "base", "big"), help="default: base and big")
    parser.add_argument("--micro-tokens", type=int, default=1_000_000, help="default: an update in one pass")
    parser.add_argument("--kernels", action="store_true", help="print what each kind of call does, too")
    args = parser.parse_args()

    configs = {preset: configuration(preset) for preset in args.preset or ("base", "big")}
    batches = paper_update(args.micro_tokens)
    pairs, src_ids, tgt_ids = (
        sum(numbers)
        for numbers in zip(*((b.src.num_sequences, b.src.num_real, b.num_labels) for b in batches), strict=True)
    )
    print(
        f"torch {torch.__version__}; an update of {pairs} pairs, {src_ids:,} source and "
        f"{tgt_ids:,} target ids in {len(batches)} passes\n"
    )
    call_seconds = {preset: seconds_of_a_call(preset) for preset in configs}
    rng = np.random.default_rng(1)
    src = [rng.integers(4, FULL.num_pieces, length).tolist() for length in lengths(SENTENCES)[0]]
    counts = {}
    with fake_gpu() as device:
        for preset, config in configs.items():
            counts[f"{preset}, an update"] = count_update(config, batches, device)
            counts[f"{preset}, a step of {SENTENCES} × {BEAM_SIZE}"] = count_step(config, src, device)

    columns = "| counted | kernels | TFLOP | GB of products | other GB | copies to the device |"
    print(columns, *(f"ms on an {chip}, estimated |" for chip in RATES))
    print("|", " | ".join(["---"] * (6 + len(RATES))), "|")
    for name, count in counts.items():
        print(row(name, count))
    for preset, seconds in call_seconds.items():
        calls = counts[f"{preset}, an update"].calls
        print(
            f"\n{preset}: {calls:,} calls an update, {1e6 * seconds:.1f} µs each here: {1000 * calls * seconds:.0f} ms"
        )
    if args.kernels:
        for name, count in counts.items():
            print(f"\n{name}\n| call | kernels | GB | TFLOP |\n| --- | --- | --- | --- |")
            for call, cost in sorted(count.costs.items(), key=lambda item: -item[1].bytes):
                print(f"| {call} | {cost.kernels} | {cost.bytes / 1e9:.2f} | {cost.flop / 1e12:.2f} |")


if __name__ == "__main__":
    main()

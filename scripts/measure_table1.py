"""Measure the paper's Table 1: time and memory of one layer against the length of the sequence and the layer's width.

    python scripts/measure_table1.py --json F.json --figure F.svg           (some minutes of one core; --quick: seconds)

Layers, each on its own, for one sequence (or ``--sequences``), in float32: our self-attention (heads of 64, as in the
paper's base and big models) with its four projections, which Table 1 leaves out, and without them, as the paper counts;
equation 1 as it is written, without projections too; self-attention restricted to r positions around each; a GRU as
PyTorch runs it; a convolution of kernel k. All are as wide at their output as at their input.

- Time is CPU time of one thread, on a GPU that between two CUDA events: forward, and forward with the gradients of
  input and weights. Layers take turns, five times over (three, where it is half a second or more), after a first round
  that is left out; medians, with quartiles in the JSON. A measurement repeats what is shorter than 20 ms.
- Memory is what autograd keeps for the backward pass, weights apart: the bytes of all different storages, exact and
  the same each time. Multiply-adds of the forward pass are counted by PyTorch's FlopCounterMode: exact too.
- Exponents are slopes of a least-squares line through the logarithms, over the upper part of the range.

Shapes: B sequences, N positions, D d_model, C columns of the input, H heads, K head size, G blocks of r positions.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.heads import heads_of
from transformer_mt.model.layout import Layout
from transformer_mt.system.allocator import keep_freed_memory
from transformer_mt.system.device import processor

HEAD = 64
WINDOW = 64  # r of restricted self-attention
KERNEL = 3  # k of the convolution
LENGTHS, WIDTHS = [8 << i for i in range(9)], [64, 128, 256, 512, 1024]
WIDTH, LENGTH = 512, 256  # of the curves against length and against width
FIT_FROM = 256  # the upper range of both
ADDITIVE_SHAPES = [(length, width) for width in (64, 512) for length in (32, 128, 512)]
ROUNDS, SLOW_ROUNDS = 5, 3  # slow is what takes half a second
SHORTEST_SECONDS, SLOW_SECONDS = 0.02, 0.5

# Layers. Each takes (B, N, C) with C = columns · D.


class Projected(nn.Module):
    """Our multi-head attention: projections, and attention by the kernel of the device."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, max(1, width // HEAD), HEAD, HEAD, 0.0, bias=False)
        parts = [self.attention.q_proj, self.attention.k_proj, self.attention.v_proj]
        # Joined once: otherwise each pass copies the three matrices, and keeps the copy.
        self.attention.joined_weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))

    def forward(self, x_BNC: Tensor) -> Tensor:
        out: Tensor = self.attention(x_BNC.flatten(0, 1), layout_of(*x_BNC.shape[:2]))
        return out


class Alone(Projected):
    """The same on queries, keys and values that are given, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.attention.out_proj = nn.Identity()  # type: ignore[assignment]

    def forward(self, x_BNC: Tensor) -> Tensor:
        layout = layout_of(*x_BNC.shape[:2])
        return self.attention._attend(x_BNC.flatten(0, 1), layout, None, layout, causal=False)


class Plain(Alone):
    """Equation 1 as it is written."""

    def forward(self, x_BNC: Tensor) -> Tensor:
        layout = layout_of(*x_BNC.shape[:2])
        return self.attention.plainly(x_BNC.flatten(0, 1), layout, None, layout, causal=False)[0]


class Restricted(nn.Module):
    """Self-attention over the r positions around each (section 4): blocks of r queries, each over 2r keys."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD)

    def forward(self, x_BNC: Tensor) -> Tensor:
        length, half = x_BNC.shape[1], WINDOW // 2
        missing = -length % WINDOW  # to whole blocks
        size = x_BNC.shape[2] // 3 // self.num_heads
        q, k, v = heads_of(F.pad(x_BNC, (0, 0, 0, missing)), self.num_heads, [size] * 3)
        q_BHGrK = q.unflatten(2, (-1, WINDOW))
        k_BHGKm, v_BHGKm = (F.pad(x, (0, 0, half, half)).unfold(2, 2 * WINDOW, WINDOW) for x in (k, v))
        queries_Gr1 = torch.arange(length + missing, device=q.device).view(-1, WINDOW, 1)
        keys_G1m = queries_Gr1[:, :1] - half + torch.arange(2 * WINDOW, device=q.device)
        may_look = (keys_G1m >= 0) & (keys_G1m < length) & ((queries_Gr1 - keys_G1m).abs() <= half)
        scores_BHGrm = (q_BHGrK @ k_BHGKm * size**-0.5).masked_fill(~may_look, -1e9)
        out_BHGrK: Tensor = scores_BHGrm.softmax(dim=-1) @ v_BHGKm.mT
        return out_BHGrK.flatten(2, 3)[:, :, :length].transpose(1, 2).flatten(2)


class Recurrent(nn.GRU):
    """A gated recurrent unit (Cho et al. 2014) in one direction."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, batch_first=True)

    def forward(self, x_BNC: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = super().forward(x_BNC)[0]
        return out


class Convolution(nn.Conv1d):
    """A convolution whose output has the length of its input."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, KERNEL, padding=KERNEL // 2)

    def forward(self, x_BNC: Tensor) -> Tensor:
        return super().forward(x_BNC.mT).mT


class Dot(nn.Module):
    """Dot-product attention of one head, on queries, keys and values that are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale: float = width**-0.5

    def scores(self, q_BND: Tensor, k_BND: Tensor) -> Tensor:
        return q_BND @ k_BND.mT * self.scale

    def forward(self, x_BNC: Tensor) -> Tensor:
        q_BND, k_BND, v_BND = x_BNC.chunk(3, dim=-1)
        return self.scores(q_BND, k_BND).softmax(dim=-1) @ v_BND


class Additive(Dot):
    """Additive attention (Bahdanau et al. 2014): the score is v · tanh(q + k), of q and k that are projected."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.v_D = nn.Parameter(torch.randn(width) * width**-0.5)

    def scores(self, q_BND: Tensor, k_BND: Tensor) -> Tensor:
        return torch.tanh(q_BND[:, :, None] + k_BND[:, None]) @ self.v_D


class Layer(NamedTuple):
    """A row of Table 1, and what computes it."""

    name: str
    build: Callable[[int], nn.Module]
    columns: int = 1  # of the input, in widths: 3 are queries, keys and values
    operations: str = ""  # orders, as in Table 1
    sequential: str = "O(1)"
    path: str = "O(1)"


LAYERS = [
    Layer("self-attention", Alone, 3, "O(n²·d)"),
    Layer("self-attention, projections too", Projected, 1, "O(n²·d + n·d²)"),
    Layer("equation 1 as written", Plain, 3, "O(n²·d)"),
    Layer(f"self-attention, r = {WINDOW}", Restricted, 3, "O(r·n·d)", path="O(n/r)"),
    Layer("recurrent (GRU)", Recurrent, 1, "O(n·d²)", "O(n)", "O(n)"),
    Layer(f"convolution, k = {KERNEL}", Convolution, 1, "O(k·n·d²)", path="O(n/k)"),
]
DOT, ADDITIVE = Layer("dot product", Dot, 3), Layer("additive", Additive, 3)


@functools.cache
def layout_of(num_sequences: int, length: int) -> Layout:
    return Layout.packed([length] * num_sequences)


class Case(NamedTuple):
    layer: Layer
    length: int
    width: int


class Result(NamedTuple):
    """What one layer takes for all sequences at once."""

    multiply_adds: int
    kept_bytes: int
    forward: list[float]  # seconds: lower quartile, median, upper quartile
    both: list[float]


# Measuring.


def multiply_adds(layer: nn.Module, x_BNC: Tensor) -> int:
    """Count those of the forward pass's matrix products and convolutions."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(x_BNC.detach())
    return int(counter.get_total_flops()) // 2


def kept_bytes(layer: nn.Module, x_BNC: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass, the layer's own weights apart."""
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in layer.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x_BNC)
    total = sum(size for storage, size in kept.items() if storage not in weights)
    del out  # until here, what is kept is alive, and no two storages have one address
    return total


def seconds_of(run: Callable[[], None], times: int, device: torch.device) -> float:
    """Return the time of one run, in the mean over so many."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000 / times
    begin = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - begin) / times


def measure(cases: Sequence[Case], num_sequences: int, rounds: int, device: torch.device) -> dict[Case, Result]:
    """Measure all cases in turns, one round after the other."""
    build = functools.cache(lambda layer, width: layer.build(width).to(device))
    exact: dict[Case, tuple[int, int]] = {}
    times: dict[Case, list[int]] = {}  # a measurement runs it so often, forward and both ways
    is_slow: dict[Case, bool] = {}
    seconds: dict[Case, tuple[list[float], list[float]]] = {case: ([], []) for case in cases}
    for turn in range(rounds + 1):
        for case in cases:
            layer, columns = build(case.layer, case.width), case.layer.columns * case.width
            x_BNC = torch.randn(num_sequences, case.length, columns, device=device, requires_grad=True)
            grad = torch.randn(num_sequences * case.length * case.width, device=device)
            runs = functools.partial(_forward, layer, x_BNC), functools.partial(_both, layer, x_BNC, grad)
            if turn == 0:
                exact[case] = multiply_adds(layer, x_BNC), kept_bytes(layer, x_BNC)
                first = [seconds_of(run, 1, device) for run in runs]
                times[case] = [max(1, math.ceil(SHORTEST_SECONDS / max(one, 1e-6))) for one in first]
                is_slow[case] = max(first) > SLOW_SECONDS
                continue
            if turn > SLOW_ROUNDS and is_slow[case]:
                continue
            for one, run, number in zip(seconds[case], runs, times[case], strict=True):
                one.append(seconds_of(run, number, device))
    return {case: Result(*exact[case], *map(_quartiles, seconds[case])) for case in cases}


def _forward(layer: nn.Module, x_BNC: Tensor) -> None:
    with torch.no_grad():
        layer(x_BNC)


def _both(layer: nn.Module, x_BNC: Tensor, grad: Tensor) -> None:
    out = layer(x_BNC)
    wanted = [x_BNC, *(weight for weight in layer.parameters() if weight.requires_grad)]
    torch.autograd.grad(out, wanted, grad.view(out.shape), allow_unused=True)


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


# What follows from it.


def exponent(sizes: Sequence[int], values: Sequence[float], least: int) -> float:
    """Return the slope of log value over log size, by least squares over the sizes from ``least`` on."""
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True) if size >= least]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def crossover(lengths: Sequence[int], own: Sequence[float], other: Sequence[float]) -> str:
    """Return from which length on ``own`` is dearer for good, interpolated between the logarithms."""
    ratios = [math.log(one / two) for one, two in zip(own, other, strict=True)]
    cheaper = [i for i, ratio in enumerate(ratios) if ratio < 0]
    if not cheaper:
        return f"below {lengths[0]}"
    last = cheaper[-1]
    if last == len(lengths) - 1:
        return f"above {lengths[-1]:,}"
    share = ratios[last] / (ratios[last] - ratios[last + 1])
    return f"{round(lengths[last] * (lengths[last + 1] / lengths[last]) ** share):,}"


def crossovers(results: dict[Case, Result], lengths: Sequence[int], widths: Sequence[int]) -> list[dict[str, Any]]:
    """Return up to which length self-attention costs less than its rivals, by width: counted, forward and both ways."""
    quantities: dict[str, Callable[[Result], float]] = {
        "multiply-adds": lambda one: one.multiply_adds,
        "forward": lambda one: one.forward[1],
        "both": lambda one: one.both[1],
    }
    found = []
    for own in LAYERS[:2]:
        for rival in LAYERS[-2:]:
            for width in widths:
                row: dict[str, Any] = {"layer": own.name, "rival": rival.name, "width": width}
                for name, quantity in quantities.items():
                    one, other = ([quantity(results[Case(layer, n, width)]) for n in lengths] for layer in (own, rival))
                    row[name] = crossover(lengths, one, other)
                found.append(row)
    return found


def exponents(results: dict[Case, Result], lengths: Sequence[int], widths: Sequence[int]) -> list[dict[str, Any]]:
    """Return the fitted exponents of each layer, in n at one width and in d at one length."""
    quantities: dict[str, Callable[[Result], float]] = {
        "multiply-adds": lambda one: one.multiply_adds,
        "bytes": lambda one: one.kept_bytes,
        "forward": lambda one: one.forward[1],
        "both": lambda one: one.both[1],
    }
    width, length = _fixed(lengths, widths)
    least_n, least_d = _fitted_from(lengths, widths)
    found = []
    for layer in LAYERS:
        row: dict[str, Any] = {"layer": layer.name}
        for name, quantity in quantities.items():
            of_n = [quantity(results[Case(layer, n, width)]) for n in lengths]
            of_d = [quantity(results[Case(layer, length, d)]) for d in widths]
            row[name] = {
                "n": exponent(lengths, of_n, least_n),
                "d": exponent(widths, of_d, least_d),
            }
        found.append(row)
    return found


def _fixed(lengths: Sequence[int], widths: Sequence[int]) -> tuple[int, int]:
    """Return the width of the curves against length, and the length of those against width."""
    return (WIDTH if WIDTH in widths else widths[-1]), (LENGTH if LENGTH in lengths else lengths[-1])


def _fitted_from(lengths: Sequence[int], widths: Sequence[int]) -> tuple[int, int]:
    return min(FIT_FROM, lengths[-2]), min(FIT_FROM, widths[-2])


# The report.


def print_report(results: dict[Case, Result], lengths: Sequence[int], widths: Sequence[int]) -> None:
    width, length = _fixed(lengths, widths)
    least_n, least_d = _fitted_from(lengths, widths)
    print(
        f"Exponents of n (at d = {width}, from n = {least_n} on) and of d (at n = {length}, from d = {least_d} on):\n"
    )
    print("| layer | operations | multiply-adds | forward | both ways | memory | sequential | longest path |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for layer, row in zip(LAYERS, exponents(results, lengths, widths), strict=True):
        powers = [
            f"n^{row[name]['n']:.2f} d^{row[name]['d']:.2f}" for name in ("multiply-adds", "forward", "both", "bytes")
        ]
        cells = [layer.name, layer.operations, *powers, layer.sequential, layer.path]
        print("| " + " | ".join(cells) + " |")

    for title, fixed, cases in [
        (f"n, at d = {width}", "n", [(n, width) for n in lengths]),
        (f"d, at n = {length}", "d", [(length, d) for d in widths]),
    ]:
        shown = [case[0] if fixed == "n" else case[1] for case in cases]
        print(f"\nForward and backward, ms, and what is kept for it, MiB, by {title}:\n")
        print("| layer | " + " | ".join(f"{number:,}" for number in shown) + " |")
        print("| --- |" + " ---: |" * len(shown))
        for layer in LAYERS:
            cells = [_cell(results[Case(layer, *case)]) for case in cases]
            print("| " + " | ".join([layer.name, *cells]) + " |")

    print("\nFrom which length on self-attention costs more:\n")
    print("| self-attention | than | d | multiply-adds | time, forward | time, both ways |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in crossovers(results, lengths, widths):
        print("| " + " | ".join(str(cell) for cell in row.values()) + " |")


def _cell(result: Result) -> str:
    return f"{result.both[1] * 1000:.3g}; {result.kept_bytes / 2**20:.3g}"


def print_additive(results: dict[Case, Result], shapes: Sequence[tuple[int, int]]) -> None:
    print("\nOne head on one sequence, forward and backward, ms, and what is kept for it, MiB:\n")
    print("| n | d | dot product | additive | time | memory |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for length, width in shapes:
        one, other = (results[Case(layer, length, width)] for layer in (DOT, ADDITIVE))
        times, memory = other.both[1] / one.both[1], other.kept_bytes / one.kept_bytes
        print(f"| {length} | {width} | {_cell(one)} | {_cell(other)} | {times:.1f} × | {memory:.1f} × |")


def draw(results: dict[Case, Result], lengths: Sequence[int], widths: Sequence[int], output: Path) -> None:
    """Draw time and memory against length and time against width, on logarithmic axes."""
    from matplotlib.figure import Figure

    width, length = _fixed(lengths, widths)
    along_n, along_d = [(n, width) for n in lengths], [(length, d) for d in widths]
    panels: list[tuple[str, str, Sequence[int], list[tuple[int, int]], Callable[[Result], float]]] = [
        (f"time, forward and backward, ms (d = {width})", "length n", lengths, along_n, lambda r: r.both[1] * 1000),
        (
            f"kept for the backward pass, MiB (d = {width})",
            "length n",
            lengths,
            along_n,
            lambda r: r.kept_bytes / 2**20,
        ),
        (f"time, forward and backward, ms (n = {length})", "width d", widths, along_d, lambda r: r.both[1] * 1000),
    ]
    # Okabe and Ito's colours, which the colour-blind tell apart; dashes and marks besides.
    colours = ("#0072B2", "#56B4E9", "#000000", "#CC79A7", "#D55E00", "#009E73")
    marks, dashes = "osxD^v", ("solid", "dashed", "dotted", "dashdot", "solid", "dashed")
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    for axes, (title, label, sizes, cases, quantity) in zip(figure.subplots(1, 3), panels, strict=True):
        for layer, colour, mark, dash in zip(LAYERS, colours, marks, dashes, strict=True):
            values = [quantity(results[Case(layer, *case)]) for case in cases]
            style = dict(color=colour, marker=mark, markersize=4, linestyle=dash, linewidth=1.4)
            lines = axes.plot(sizes, values, label=layer.name, **style)
            assert lines
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(output, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("--figure", type=Path, help="draw the curves there (Matplotlib)")
    parser.add_argument("--sequences", type=int, default=1, help="of each length at once")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--quick", action="store_true", help="short sequences, narrow layers, once: to try it out")
    args = parser.parse_args(arguments)

    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest, widest, rounds = (16, 128, 1) if args.quick else (args.longest, WIDTHS[-1], ROUNDS)
    lengths, widths = [n for n in LENGTHS if n <= longest], [d for d in WIDTHS if d <= widest]
    shapes = ADDITIVE_SHAPES[:1] if args.quick else ADDITIVE_SHAPES
    width, length = _fixed(lengths, widths)
    cases = [
        Case(layer, n, d)
        for layer in LAYERS
        for d in widths
        for n in lengths
        if layer in (*LAYERS[:2], *LAYERS[-2:]) or n == length or d == width
    ]
    results = measure(cases, args.sequences, rounds, device)
    # One sequence: of several, the tables of additive attention do not fit.
    additive = measure([Case(layer, *s) for layer in (DOT, ADDITIVE) for s in shapes], 1, rounds, device)

    name = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, one thread, float32, {args.sequences} sequence(s), {rounds} rounds\n")
    print_report(results, lengths, widths)
    print_additive(additive, shapes)
    if args.json:
        rows = [
            {"layer": case.layer.name, "n": case.length, "d": case.width, **result._asdict()}
            for case, result in (results | additive).items()
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(results, lengths, widths, args.figure)


if __name__ == "__main__":
    main()

"""One part of scripts/gpu_all.py: measures on the GPU, or with --dry on what there is, and prints JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config, ModelConfig, SearchConfig, TokenizerConfig
from transformer_mt.data.batching import Pairs
from transformer_mt.data.checksums import Checksums
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.store import FORMAT, IdStore, finish_store, write_places, write_side
from transformer_mt.decoding.translator import Translator
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.device import describe, local_device
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.toy_corpus import grammar
from transformer_mt.training import loop, setup

MEAN_LENGTH = 27  # of both sides, as in the paper's corpus
PEAK_TFLOPS = 790.0  # of an H100 or H200 in bfloat16: what large products reach
ESTIMATES = "estimates.json"  # in the directory of all parts


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is: for the GPU, or for a dry run."""

    shape: dict[str, int]  # in place of the preset's
    num_pieces: int = 37_000
    num_pairs: int = 200_000
    update_tokens: int = 25_000
    warmup: int = 40  # updates; compiling is done by then
    updates: int = 150
    products: tuple[int, ...] = (1024, 4096, 8192, 16384)
    copied_bytes: int = 1 << 30
    sentences: int = 2048
    batches: tuple[int, ...] = (16_384, 65_536, 262_144)  # search.batch_tokens
    seconds: float = 2.0  # that one decoding is measured for
    resume: tuple[int, int, int] = (20, 4096, 5000)  # steps of each half, tokens of an update, pairs


SMALL = dict(d_model=32, d_ff=64, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
FULL = Sizes({})
DRY = Sizes(SMALL, 400, 300, 200, 1, 2, (64,), 1 << 16, 4, (64,), 0.0, (1, 256, 100))


# Ids in place of text: a corpus on disk and a vocabulary.


def lengths(num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of pairs, </s> included: log-normal, and correlated (0.9), as one side translates the other."""
    rng = np.random.default_rng(1)
    common, *own = rng.standard_normal((3, num_pairs))
    sides = (np.exp(np.log(MEAN_LENGTH) - 0.125 + 0.5 * (0.9**0.5 * common + 0.1**0.5 * noise)) for noise in own)
    src, tgt = (np.clip(side, 2, 250).astype(np.int32) for side in sides)
    return src, tgt


def random_store(directory: Path, sizes: Sizes) -> IdStore:
    """A corpus of random ids, as preparing would leave it."""
    directory.mkdir()
    facts: dict[str, dict[str, int]] = {"longest": {}, "tokens": {}}
    files: Checksums = {}
    rng = np.random.default_rng(2)
    for side, of_side in zip(("src", "tgt"), lengths(sizes.num_pairs), strict=True):
        ends = np.cumsum(of_side, dtype=np.int64)
        ids = rng.integers(4, sizes.num_pieces, ends[-1]).astype(np.uint16)
        ids[ends - 1] = EOS_ID
        files |= write_side(directory, 0, side, ids, np.concatenate([[0], ends]))
        facts["longest"][side], facts["tokens"][side] = int(of_side.max()), int(ends[-1])
    files |= write_places(directory, 0, np.arange(sizes.num_pairs))
    report = dataclasses.asdict(CleanReport(sizes.num_pairs))
    source = ("random", sizes.num_pairs, sizes.num_pairs)
    meta = {"format": FORMAT, "dtype": "uint16", "shards": [sizes.num_pairs], "sources": [source], "report": report}
    finish_store(directory, {**meta, **facts, "fingerprint": "random"}, files)
    return IdStore(directory)


def tokenizers(sizes: Sizes) -> Tokenizers:
    """A small vocabulary, with rows that no text becomes up to the size that is wanted."""
    lines = itertools.chain.from_iterable(grammar.generate("train", 600))
    trained, _ = train_tokenizer(lines, TokenizerConfig(vocab_size=400))
    spare = {f"<spare{i}>": i for i in range(trained.vocab_size, sizes.num_pieces)}
    tokenizer = Tokenizer(trained.model, trained.table | spare, [])
    return Tokenizers(tokenizer, tokenizer)


def configuration(sizes: Sizes, work: Path, preset: str, **train: Any) -> Config:
    """A configuration of a run; it must name files, which nobody reads here."""
    for side in ("src", "tgt"):
        (work / f"nothing.{side}").write_text("nothing\n", encoding="utf-8")
    source = {"src": str(work / "nothing.src"), "tgt": str(work / "nothing.tgt")}
    return validate(
        {
            "data": {"src_lang": "en", "tgt_lang": "de", "train": [source], "cache_dir": str(work / "cache")},
            "model": {"preset": preset, **sizes.shape},
            "batch": {"max_tokens": sizes.update_tokens},
            "train": {"max_steps": 1_000_000, "log_steps": 10, **train},
        },
        "gpu_all",
    )


# Training.


class _Waiting(Ranks):
    """One rank, that measures how long the host waits for the device."""

    seconds = 0.0

    def wait_for(self, event: torch.cuda.Event) -> None:
        started = time.perf_counter()
        event.synchronize()
        _Waiting.seconds += time.perf_counter() - started


class Timed(loop._Loop):
    """The training loop, with a stopwatch in place of what comes after an update (validating, saving, stopping)."""

    def measure(self, warmup: int, updates: int, profiler: profile | None = None) -> None:
        """Train: first some updates that are not measured, then those that are, with a profiler at work or without."""
        self.first, self.last, self.profiler = warmup, warmup + updates, profiler
        self.labels = 0
        self.pairs: list[Pairs] = []
        self.events: list[torch.cuda.Event] = []
        add = self.meter.add

        def count(step: int, pairs: Pairs, num_labels: int, *rest: Any) -> None:
            if step > self.first:
                self.labels, self.pairs = self.labels + num_labels, [*self.pairs, pairs]
            add(step, pairs, num_labels, *rest)

        with patch.object(self.meter, "add", count):
            self.run()

    def finish_step(self) -> None:
        if self.state.step == self.first:
            synchronize()
            if self.profiler is not None:
                self.profiler.start()
            _Waiting.seconds, self.seconds = 0.0, -time.perf_counter()
        if self.state.step >= self.first and torch.cuda.is_available():
            self.events.append(torch.cuda.Event(enable_timing=True))
            self.events[-1].record()
        if self.state.step == self.last:
            self.host = self.seconds + time.perf_counter() - _Waiting.seconds
            synchronize()
            self.seconds += time.perf_counter()
            if self.profiler is not None:
                self.profiler.stop()
            self.state.step = self.setup.config.train.max_steps  # the end of the loop

    def milliseconds(self) -> float | None:
        """The median time between the ends of two updates on the device."""
        times = [before.elapsed_time(after) for before, after in itertools.pairwise(self.events)]
        return statistics.median(times) if times else None


@contextlib.contextmanager
def training(sizes: Sizes, work: Path, preset: str, **train: Any) -> Iterator[Timed]:
    """The real run, put together by the real `set_up`, on random ids."""
    store, vocabulary = random_store(work / "store", sizes), tokenizers(sizes)
    config = configuration(sizes, work, preset, **train)
    with (
        contextlib.ExitStack() as cleanup,
        patch.object(setup, "_corpus", lambda *_: store),
        patch.object(setup, "_tokenizers", lambda *_: vocabulary),
        patch.object(setup, "join", _Waiting),
    ):
        made = setup.set_up(config, work / "run", cleanup, resume=False, dry_run=False)
        yield Timed(made, work / "run", cleanup)


def measure_training(sizes: Sizes, work: Path, preset: str, way: str) -> dict[str, Any]:
    """Updates a second of the steady state, as `tmt train` does them."""
    with training(sizes, work, preset, deterministic=way != "free", compile=way == "compiled") as timed:
        timed.measure(sizes.warmup, sizes.updates if preset == "base" else -(-sizes.updates // 2))
        src, tgt = (timed.setup.store.lengths(side) for side in ("src", "tgt"))
        config, updates = timed.setup.config, timed.last - timed.first
        flops = sum(training_flops(config.model, sizes.num_pieces, src[pairs], tgt[pairs]) for pairs in timed.pairs)
    teraflops = flops / timed.seconds / 1e12
    return {
        "precision": config.train.precision,
        "updates_per_second": updates / timed.seconds,
        "target_tokens_per_second": timed.labels / timed.seconds,
        "tflops": teraflops,
        "share_of_chip": teraflops / PEAK_TFLOPS if has_peak(config.train.precision) else None,
        "host_ms": 1000 * timed.host / updates,
        "device_ms": timed.milliseconds(),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        "micro_tokens": timed.setup.largest.micro_tokens,
        "mean_lengths": f"{src.mean():.1f}/{tgt.mean():.1f}",
        "estimated_ms": estimated_milliseconds(work.parent, preset),
    }


def has_peak(precision: str) -> bool:
    """Whether `PEAK_TFLOPS` is this chip's, in a precision."""
    return precision == "bfloat16" and any(chip in describe(local_device()) for chip in ("H100", "H200"))


def estimate(sizes: Sizes, shared: Path) -> Iterator[dict[str, Any]]:
    """What scripts/count_cuda.py counts and estimates for an update; kept for the parts that measure."""
    import count_cuda
    from fake_cuda.fake_gpu import fake_gpu  # found since count_cuda is imported

    batches, estimates = count_cuda.paper_update(1_000_000), {}
    with fake_gpu() as device:
        for preset in ("base",) if sizes.shape else ("base", "big"):
            count = count_cuda.count_update(count_cuda.configuration(preset), batches, device)
            estimates[preset] = {
                chip: " to ".join(f"{count.milliseconds(*rates, gap):.1f}" for gap in (0.0, count_cuda.GAP_SECONDS))
                for chip, rates in count_cuda.RATES.items()
            }
            yield {"preset": preset, "kernels": count.kernels, "calls": count.calls, "ms": str(estimates[preset])}
    (shared / ESTIMATES).write_text(json.dumps(estimates), encoding="utf-8")


def estimated_milliseconds(shared: Path, preset: str) -> str:
    """Of this chip, if it is one of those that there is an estimate for."""
    path, name = shared / ESTIMATES, describe(local_device())
    of_chips = json.loads(path.read_text(encoding="utf-8")).get(preset, {}) if path.exists() else {}
    return next((text for chip, text in of_chips.items() if chip in name), "none")


def training_flops(config: ModelConfig, num_pieces: int, src: np.ndarray, tgt: np.ndarray) -> float:
    """Multiplications and additions of one update: forward once, backward twice; norms and softmax not counted.

    Two for each weight of a matrix and each row it meets, and in attention two for each score and each of its uses
    (scores, weighted sum) and column; the causal half counts half.
    """
    assert config.d_k is not None and config.d_v is not None
    src, tgt, wide = src.astype(float), tgt.astype(float), config.num_heads * (config.d_k + config.d_v)
    rows = {"src": src.sum(), "tgt": tgt.sum()}
    attention, feed_forward = 2 * config.d_model * wide, 2 * config.d_model * config.d_ff
    encoder = rows["src"] * (attention + feed_forward) + (src**2).sum() * wide
    scores = (tgt**2).sum() / 2 + (src * tgt).sum()
    own_and_out = rows["tgt"] * (attention + config.d_model * wide + feed_forward)
    decoder = own_and_out + rows["src"] * config.d_model * wide + scores * wide
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return float(3 * 2 * (layers + rows["tgt"] * config.d_model * num_pieces))


def kernels(sizes: Sizes, work: Path, output: Path) -> dict[str, Any]:
    """The 40 longest kernels of five updates, as a table in a file."""
    on_gpu = torch.cuda.is_available()
    with training(sizes, work, "base") as timed:
        profiled = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
        timed.measure(sizes.warmup, 5, profiled)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiled.key_averages()
        if event.device_type == kind
    ]
    found.sort(reverse=True)
    total = sum(microseconds for microseconds, _, _ in found)
    lines = [f"{'ms of 5 updates':>15} {'share':>6} {'calls':>6}  kernel"]
    lines += [f"{us / 1000:15.3f} {us / total:6.1%} {count:6}  {name[:150]}" for us, count, name in found[:40]]
    (output / "kernels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"device_ms": total / 5000, "kernels": sum(count for _, count, _ in found) / 5, "longest": found[0][2][:60]}


# The machine, tests, decoding.


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], repeats: int) -> float:
    """The time of one of some runs in a row, after one that is not counted."""
    work()
    synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize()
    return (time.perf_counter() - started) / repeats


def machine(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Versions, and what the chip really does: products of matrices, and copies."""
    device = local_device()
    versions: dict[str, object] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    versions |= {"device": describe(device), "cores": os.cpu_count()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        versions |= {
            "gib": total / 2**30,
            "free_gib": free / 2**30,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
        versions["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    yield versions
    torch.set_float32_matmul_precision("high")
    for kind, dtype in ("bfloat16", torch.bfloat16), ("tf32", torch.float32):
        for size in sizes.products:
            a, b = torch.randn(2, size, size, device=device).to(dtype)
            took = seconds_of(functools.partial(torch.matmul, a, b), max(2, min(50, (16384 // size) ** 3)))
            yield {"product": kind, "size": size, "tflops": 2 * size**3 / took / 1e12}
    a, b = (torch.empty(sizes.copied_bytes, dtype=torch.uint8, device=device) for _ in "ab")
    yield {"copy_gb_per_second": 2 * sizes.copied_bytes / seconds_of(lambda: b.copy_(a), 10) / 1e9}


def tests(sizes: Sizes, output: Path) -> Iterator[dict[str, Any]]:
    """The tests of what only a GPU shows; when it is dry, some of them on the CPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=short"]
    # Those that start `tmt` wait for its start most of the time: beside the others, in a process of their own.
    slow = [f"tests/gpu/test_{name}.py" for name in ("cuda_resume", "limits", "nccl")]
    groups = [["tests/gpu", *(f"--deselect={path}" for path in slow)], slow]
    if sizes.shape:
        groups[0] += ["-k", "average or feeding"]
    logs = [output / "tests.txt", output / "tests_of_commands.txt"]
    processes = []
    for group, log in zip(groups, logs, strict=True):
        with open(log, "w", encoding="utf-8") as file:
            processes.append(subprocess.Popen([*command, *group], stdout=file, stderr=subprocess.STDOUT))
    for process, log in zip(processes, logs, strict=True):
        process.wait()
        yield {"pytest": log.read_text(encoding="utf-8").rstrip().splitlines()[-1].strip("= "), "log": log.name}
    if any(process.returncode for process in processes):
        sys.exit("pytest has found what is wrong, see there")


def decode(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Sentences a second of the base model with random weights: sources and translations of one length."""
    device, length, rng = local_device(), MEAN_LENGTH, np.random.default_rng(1)
    torch.manual_seed(1)
    config = ModelConfig.model_validate({"preset": "base", **sizes.shape})
    model = Transformer(config, sizes.num_pieces, sizes.num_pieces).to(device).eval()
    sources = [[*rng.integers(4, sizes.num_pieces, length - 1).tolist(), EOS_ID] for _ in range(sizes.sentences)]
    vocabulary = tokenizers(sizes)
    precisions: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
    for beam, precision, batch_tokens in itertools.product((4, 1), precisions, sizes.batches):
        search = SearchConfig(
            beam_size=beam,
            min_tokens=length - 1,
            max_extra_tokens=0,
            precision=precision,
            batch_tokens=batch_tokens,
            stop="beam_finished",
        )
        translator = Translator.of_models([model], vocabulary, search, length)
        translator.translate_ids(sources[: sizes.sentences // 4])
        started, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - started < sizes.seconds:
            found = translator.translate_ids(sources)
            done += len(sources)
        assert all(len(best[0].ids) == length - 1 for best in found)
        rate = done / (time.perf_counter() - started)
        yield {"beam": beam, "precision": precision, "batch_tokens": batch_tokens, "sentences_per_second": rate}


# `tmt train` itself.


def tmt(*words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "transformer_mt", *map(str, words)]
    return subprocess.Popen(command, stdout=sys.stderr)


def train(*words: object) -> None:
    if tmt("train", *words).wait() != 0:
        sys.exit("tmt train failed, see above")


def resume(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """Twice as many updates of the base model with an average, in one go and in two: the same bytes."""
    half, max_tokens, num_pairs = sizes.resume
    source = [{"builtin": "grammar", "split": "train", "num_pairs": num_pairs}]
    config = {
        "data": {"src_lang": "en", "tgt_lang": "de", "train": source, "cache_dir": str(work / "cache")},
        "tokenizer": {"vocab_size": 400 if sizes.shape else 2000},
        "model": {"preset": "base", **sizes.shape},
        "batch": {"max_tokens": max_tokens},
        "optim": {"warmup_steps": half, "clip_norm": 1.0},
        "train": {"max_steps": 2 * half, "checkpoint_steps": half, "log_steps": 1, "ema_decay": 0.999},
    }
    path, straight, halves = work / "resume.yaml", work / "straight", work / "halves"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    train(path, "--output", straight)
    train(path, "--output", halves, "--set", f"train.max_steps={half}")
    train(path, "--output", halves, "--resume")

    def digests(run: Path) -> dict[str, str]:
        last = run / "checkpoints" / (run / "last").read_text(encoding="utf-8").strip()
        found = {name: last / name for name in ("model.safetensors", "optimizer.safetensors")}
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}

    def logged(run: Path) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{key: value for key, value in record.items() if key != "tokens_per_second"} for record in records]

    ours, theirs = digests(straight), digests(halves)
    equal = {name: ours[name] == theirs[name] for name in ours} | {"metrics": logged(straight) == logged(halves)}
    yield {"updates": 2 * half, **equal, "last_loss": logged(straight)[-1]["loss"]}
    if not all(equal.values()):
        sys.exit("the resumed run differs from the one in one go")


RECIPES = {"builtin": "quickstart", "multi30k": "multi30k_en_de"}


def learn(sizes: Sizes, work: Path, corpus: str, limit: float) -> Iterator[dict[str, Any]]:
    """BLEU of each validation against the time since the start of `tmt train`, preparing included."""
    data = Path(os.environ.get("TMT_DATA", "data")) / "multi30k"
    if corpus == "multi30k" and not data.is_dir():
        yield {"skipped": f"no {data}"}
        return
    settings: dict[str, Any] = {"data.cache_dir": work / "cache", "train.eval_steps": 200}
    if sizes.shape:
        settings |= {f"model.{key}": value for key, value in sizes.shape.items()} | {"train.max_steps": 2}
        settings |= {"batch.max_tokens": 128, "tokenizer.vocab_size": 400}
        settings["data.train"] = "[{builtin: grammar, split: train, num_pairs: 200}]"
        settings["data.valid"] = "[{builtin: grammar, split: valid, num_pairs: 4}]"
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run, started = work / corpus, time.monotonic()
    process = tmt("train", f"configs/{RECIPES[corpus]}.yaml", "--output", run, *words)
    metrics, seen, num_valid, is_told = run / "metrics.jsonl", 0, 0, False
    while True:
        has_ended = process.poll() is not None
        lines = metrics.read_text(encoding="utf-8").split("\n")[:-1] if metrics.exists() else []
        for record in map(json.loads, lines[seen:]):
            if record["kind"] == "valid":
                num_valid += 1
                scores = {key: record[key] for key in ("step", "bleu", "loss")}
                yield {"wall_seconds": time.monotonic() - started, **scores}
        seen = len(lines)
        if has_ended:
            break
        if time.monotonic() - started > limit and not is_told:
            process.send_signal(signal.SIGTERM)
            is_told = True
        time.sleep(0.1)
    if num_valid == 0 or (process.returncode != 0 and not is_told):
        sys.exit(f"tmt train: exit status {process.returncode}, {num_valid} validations")


def records_of(args: argparse.Namespace, sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    match args.part:
        case ["machine"]:
            yield from machine(sizes)
        case ["tests"]:
            yield from tests(sizes, args.output)
        case ["estimate"]:
            yield from estimate(sizes, work.parent)
        case ["train", preset, way]:
            yield measure_training(sizes, work, preset, way)
        case ["decode"]:
            yield from decode(sizes)
        case ["resume"]:
            yield from resume(sizes, work)
        case ["kernels"]:
            yield kernels(sizes, work, args.output)
        case ["learn", corpus]:
            yield from learn(sizes, work, corpus, args.seconds - 12)  # the last checkpoint is written in these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="+")
    parser.add_argument("--work", type=Path, required=True, help="a directory of all parts")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="that it may take")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure; --dry tries every part with tiny shapes")
    work = args.work / "-".join(args.part)
    work.mkdir()
    for record in records_of(args, DRY if args.dry else FULL, work):
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

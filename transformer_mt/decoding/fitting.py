"""How much is computed at once: on a CPU what its caches like, on a GPU what its memory takes, and less where it does
not fit after all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from transformer_mt.config.sections import SearchConfig
from transformer_mt.decoding.engine import Engine
from transformer_mt.decoding.recurrent_scorer import RecurrentScorer
from transformer_mt.errors import is_out_of_memory
from transformer_mt.search.scorer import batch_size, is_on_host
from transformer_mt.system.console import Tell

# Source positions × hypotheses of a batch unless `search.batch_tokens` says otherwise. On a GPU it is a bound beyond
# which products do not become faster; memory may set a lower one.
_CPU_TOKENS, _GPU_TOKENS = 8192, 131_072
# Of the memory that is free. The rest is for what the estimate leaves out (encoder, workspaces, fragments) and, during
# training, for training.
_SHARE = 4

T = TypeVar("T")
R = TypeVar("R")


def batch_tokens(config: SearchConfig, device: torch.device) -> int:
    """Return the source positions × hypotheses that are searched at once, as long as they fit."""
    return config.batch_tokens or (_CPU_TOKENS if is_on_host(device) else _GPU_TOKENS)


class Batches:
    """Cuts sources into batches that are searched at once, smaller ones when a GPU's memory has not taken one."""

    def __init__(self, engines: Sequence[Engine | RecurrentScorer], config: SearchConfig, warn: Tell) -> None:
        self._engines, self._config, self._warn = engines, config, warn
        self._device = engines[0].device
        self._tokens = batch_tokens(config, self._device)
        self._has_warned = False

    def cut(self, lengths: Sequence[int], num_processes: int) -> list[list[int]]:
        """Return the numbers of the sources of each batch, such that each of several processes gets its share.

        The longest come first, so that a batch too large for memory shows at once.
        """
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        share = len(order) if num_processes == 1 else -(-len(order) // (2 * num_processes))
        batches = []
        while order:
            length = lengths[order[0]]
            rows = min(share, self._tokens // (length * self._config.num_hypotheses))
            rows = max(1, min(rows, num_fitting(self._engines, self._config, length) or rows))
            while batch_size(rows) > rows:
                rows -= 1
            batches.append(order[:rows])
            order = order[rows:]
        return batches

    def work(self, search: Callable[[Sequence[T]], list[R]], batch: Sequence[T], longest: int) -> list[R]:
        """Return ``search(batch)``, in halves where it does not fit; later batches are then as small as these.

        Args:
            longest: of the batch's sources, in ids.
        """

        def too_many(num_sources: int) -> None:
            if not self._has_warned:
                self._warn(
                    f"warning: out of memory with {num_sources} sentences at once, from here on with half as many; "
                    "set search.batch_tokens to what fits"
                )
            self._has_warned = True
            self._tokens = max(1, num_sources * self._config.num_hypotheses * longest // 2)

        return in_halves(search, batch, self._device, too_many)


def num_fitting(engines: Sequence[Engine | RecurrentScorer], config: SearchConfig, length: int) -> int | None:
    """Return how many sources of ``length`` ids a GPU's free memory takes, by estimate; None where that is no matter.

    It is none on a CPU, and where the configuration says how much is searched at once.
    """
    device = engines[0].device
    if config.batch_tokens is not None or is_on_host(device):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch keeps for whoever asks it next is free as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    longest, num_hypotheses = length + config.max_extra_tokens, config.num_hypotheses
    needed = sum(engine.bytes_a_sentence(length, longest, num_hypotheses) for engine in engines)
    return max(1, free // _SHARE // needed)


def in_halves(
    work: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    device: torch.device,
    tell: Callable[[int], None] = lambda _: None,
) -> list[R]:
    """Return ``work(items)``. What does not fit into a GPU's memory is done in two halves, or in halves of these.

    Args:
        tell: called with the number of items that did not fit.

    Raises:
        RuntimeError: one item alone does not fit; or whatever else work raises.
    """
    try:
        return work(items)
    except RuntimeError as error:
        if is_on_host(device) or len(items) < 2 or not is_out_of_memory(error):
            raise
    # Behind the handler: until its end the error keeps all that was computed.
    torch.cuda.empty_cache()
    tell(len(items))
    middle = len(items) // 2
    return in_halves(work, items[:middle], device, tell) + in_halves(work, items[middle:], device, tell)

"""The weights as a training step on a GPU reads them: all in one tensor, in the precision of the matrix products.

`torch.autocast` converts each weight each time that it is used, and puts what it does not know (layer norm) into
float32. Here the weights are converted once an update, by one kernel, and the rows stay in the precision of the weights
from the embeddings to the loss (Micikevicius et al. 2018: float32 master weights). The queries', keys' and values'
matrices of an attention lie one behind the other, so that their common product needs no copy of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.kinds import new_model
from transformer_mt.model.transformer import DecoderLayer, EncoderDecoder, EncoderLayer


def flatten_weights(model: nn.Module) -> Tensor:
    """Move all weights of a model into one tensor, in the order of `parameters`, and return it."""
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    _make_views(model, flat)
    return flat


class WorkingWeights:
    """A twin of a model whose weights are copies of the model's in another precision, or in float32 the model's own."""

    def __init__(self, model: EncoderDecoder, weights: Tensor, precision: torch.dtype) -> None:
        """``weights``: those of the model, by `flatten_weights`."""
        self._weights = weights
        self._copies = weights.to(precision)
        self._gradients = torch.empty_like(self._copies)
        with torch.device("meta"):  # without weights of its own
            self.twin = new_model(model.config, model.src_embed.num_embeddings, model.tgt_embed.num_embeddings)
        for leaf, parameter in zip(self.twin.parameters(), model.parameters(), strict=True):
            leaf.requires_grad_(parameter.requires_grad)
        _make_views(self.twin, self._copies)
        self._leaves = list(self.twin.parameters())
        for module in self.twin.modules():
            if isinstance(module, EncoderLayer | DecoderLayer):
                self._join(module.self_attn, "qkv")
            if isinstance(module, DecoderLayer):
                self._join(module.cross_attn, "kv")

    def refresh(self) -> None:
        """Copy the model's weights, which have changed."""
        if self._copies.dtype is not self._weights.dtype:
            self._copies.copy_(self._weights)

    def move_gradients(self, to: Tensor) -> None:
        """Add the gradients that the twin has to those of the model, and take them away from it."""
        # A batch meets all weights that are trained.
        assert all((leaf.grad is not None) == leaf.requires_grad for leaf in self._leaves)
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves]
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradients)
        to.add_(self._gradients)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        for leaf in self._leaves:
            leaf.grad = None  # so that autograd hands over its tensor the next time, instead of adding to this one

    def _join(self, attention: MultiHeadAttention, which: str) -> None:
        """Let an attention read its projections of the letters in ``which`` as one matrix.

        With biases it cannot: their place is between the matrices.
        """
        parts = [getattr(attention, f"{letter}_proj").weight for letter in which]
        if attention.q_proj.bias is None:
            rows, start = sum(len(part) for part in parts), parts[0].storage_offset()
            joined = self._copies[start : start + rows * parts[0].shape[1]].view(rows, -1)
            attention.joined_weight = nn.Parameter(joined, requires_grad=parts[0].requires_grad)
            first = next(i for i, leaf in enumerate(self._leaves) if leaf is parts[0])
            self._leaves[first : first + len(parts)] = [attention.joined_weight]


def _make_views(model: nn.Module, flat: Tensor) -> None:
    """Replace the weights of a model by views of one tensor that holds them in their order."""
    parameters = list(model.parameters())
    parts = flat.split([p.numel() for p in parameters])
    views = {
        old: nn.Parameter(part.view_as(old), old.requires_grad) for old, part in zip(parameters, parts, strict=True)
    }
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, views[old])

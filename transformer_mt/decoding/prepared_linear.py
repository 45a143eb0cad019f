"""Matrix products with weights that are prepared once, for inference: float32, bfloat16 or int8.

Results are float32 in all three, but for bfloat16 on a GPU: there rows are bfloat16 from product to product, as its
kernels sum in float32 and round once, and a conversion around each product would cost more than the product.

Shapes: N rows, D columns in, C columns out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# On a CPU, weights of fewer numbers than this are multiplied in float32 whatever the precision: they stay in the
# cache, and converting the rows costs more than it saves.
_SMALL_WEIGHT = 1 << 17
# Up to this many rows a small product is over before oneDNN has looked its kernel up.
_FEW_ROWS = 16


class Linear(Protocol):
    """x W^T + b."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, C)."""

    def add(self, residual_NC: Tensor, x_ND: Tensor) -> Tensor:
        """The product added to ``residual_NC``, as a new tensor."""


def row_type(weight: Tensor, precision: str) -> torch.dtype:
    """The type of rows between products: on a GPU bfloat16 with that precision, else that of the model's weights."""
    return torch.bfloat16 if weight.is_cuda and precision == "bfloat16" else weight.dtype


def prepare(weight_CD: Tensor, bias_C: Tensor | None, precision: str) -> Linear:
    """A matrix and its bias, in the precision where that pays."""
    if weight_CD.is_cuda:
        dtype = row_type(weight_CD, precision)
        return _Plain(weight_CD.to(dtype), None if bias_C is None else bias_C.to(dtype))
    if precision == "float32" or weight_CD.numel() < _SMALL_WEIGHT:
        return _Plain(weight_CD, bias_C)
    return _Bfloat16(weight_CD, bias_C) if precision == "bfloat16" else _Int8(weight_CD, bias_C)


class _Plain:
    """In the weights' own type. Many rows go through oneDNN on a CPU, with the weight in the order that it reads:
    MKL, PyTorch's choice, leaves half of the vector unit idle on other makers' processors."""

    def __init__(self, weight_CD: Tensor, bias_C: Tensor | None) -> None:
        self._bias_C = bias_C
        self._packed = _packed(weight_CD)
        self._few_rows = _FEW_ROWS if weight_CD.numel() < _SMALL_WEIGHT else 0
        is_read = self._packed is None or self._few_rows
        self._weight_DC = weight_CD.T.contiguous() if is_read else weight_CD.new_empty(0)

    def __call__(self, x_ND: Tensor) -> Tensor:
        if self._packed is not None and x_ND.shape[0] > self._few_rows:
            return _pointwise(x_ND, self._packed, self._bias_C, "none", [], "")
        if self._bias_C is None:
            return torch.mm(x_ND, self._weight_DC)
        return torch.addmm(self._bias_C, x_ND, self._weight_DC)

    def add(self, residual_NC: Tensor, x_ND: Tensor) -> Tensor:
        if self._packed is not None and x_ND.shape[0] > self._few_rows:
            return _pointwise_binary(x_ND, residual_NC, self._packed, self._bias_C, "add")
        out_NC = torch.addmm(residual_NC, x_ND, self._weight_DC)
        return out_NC if self._bias_C is None else out_NC.add_(self._bias_C)


class _Bfloat16:
    """Weights and rows rounded to bfloat16, results float32 (CPU only)."""

    def __init__(self, weight_CD: Tensor, bias_C: Tensor | None) -> None:
        narrow_CD = weight_CD.to(torch.bfloat16)
        self._bias_C = bias_C
        self._packed = _packed(narrow_CD)
        self._weight_CD = narrow_CD if self._packed is None else narrow_CD.new_empty(0)

    def __call__(self, x_ND: Tensor) -> Tensor:
        narrow_ND = x_ND.to(torch.bfloat16)
        if self._packed is None:
            out_NC = F.linear(narrow_ND, self._weight_CD).float()
        else:
            out_NC = _pointwise(narrow_ND, self._packed, None, "none", [], "").float()
        return out_NC if self._bias_C is None else out_NC.add_(self._bias_C)

    def add(self, residual_NC: Tensor, x_ND: Tensor) -> Tensor:
        return self(x_ND).add_(residual_NC)


class _Int8:
    """Weights by output column and rows each by itself, scaled so that the largest magnitude is 127 (CPU only; weights:
    63 on a processor without VNNI).

    A row's result does not depend on its neighbours. Sums are 32-bit integers, so they are exact.
    """

    def __init__(self, weight_CD: Tensor, bias_C: Tensor | None) -> None:
        # Without VNNI the processor adds pairs of products in 16 bits, which a smaller weight does not overflow.
        limit = 127 if torch.cpu._is_vnni_supported() else 63
        self._scale_C = weight_CD.abs().amax(1).clamp_(min=1e-30) / limit
        quantized_CD = (weight_CD / self._scale_C.unsqueeze(1)).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(quantized_CD.contiguous(), None)
        self._zero_C = torch.zeros(weight_CD.shape[0], dtype=torch.int32)
        self._bias_C = bias_C

    def __call__(self, x_ND: Tensor) -> Tensor:
        out_NC, scale_N1 = self._multiply(x_ND)
        if self._bias_C is None:
            return out_NC.mul_(scale_N1)
        return torch.addcmul(self._bias_C, out_NC, scale_N1, out=out_NC)

    def add(self, residual_NC: Tensor, x_ND: Tensor) -> Tensor:
        out_NC, scale_N1 = self._multiply(x_ND)
        sum_NC = torch.addcmul(residual_NC, out_NC, scale_N1)
        return sum_NC if self._bias_C is None else sum_NC.add_(self._bias_C)

    def _multiply(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The product of the quantized rows, still to be multiplied by their scales."""
        scale_N1 = x_ND.abs().amax(1, keepdim=True).clamp_(min=1e-30).mul_(1 / 127)
        # The instructions want unsigned rows, 128 standing for zero: signed ones with the top bit turned.
        quantized_ND = (x_ND / scale_N1).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128)
        scales = (1.0, 128, self._packed, self._scale_C, self._zero_C)
        product: Tensor = _qlinear(quantized_ND, *scales, None, 1.0, 0, torch.float32, "none", [], "")
        return product, scale_N1


def _packed(weight_CD: Tensor) -> Tensor | None:
    """A weight as oneDNN reads it; None where there is no oneDNN."""
    if weight_CD.is_cuda or not torch.backends.mkldnn.is_available() or weight_CD.dtype == torch.float64:
        return None
    if weight_CD.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_CD.contiguous(), 256)
    return packed


if torch.backends.mkldnn.is_available():
    _pointwise: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    _pointwise_binary: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.binary
    _qlinear: Callable[..., Tensor] = torch.ops.onednn.qlinear_pointwise.default

"""Products with frozen weights, forward and backward by hand: of linear modules, with K adapters on them or without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rayul.unlearn.run_as import run_as


def frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias of x [..., d] and W [o, d]; the gradient reaches x alone."""
    found: Tensor = _Frozen.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


def adapted(
    x: Tensor, seen: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: Tensor
) -> Tensor:
    """x W^T + bias + s_k (x A_k) B_k of x [K, n, d], A [K, d, R], B [K, R, o], s [K]; the gradient reaches x, A and B.
    seen: what the adapters see in place of x, [K, n, d]."""
    found: Tensor = _Adapted.apply(x, seen, weight, bias, a, b, scale)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def by_hand(model: Any) -> Iterator[None]:
    """For the length of a block without gradients, the linear modules of any model multiply as `frozen` does, where
    oneDNN is the faster one: from about a hundred tokens on it takes half of the time. With few, as where answers are
    generated, the ten microseconds that a call of it costs are more than it saves."""
    wanted = by_onednn() and not torch.is_grad_enabled()
    linears = [m for m in model.modules() if is_plain(m) and "forward" not in vars(m)] if wanted else []
    with run_as({linear: MethodType(_linear, linear) for linear in linears}):
        yield


def is_plain(linear: Any) -> bool:
    """Whether its product is computed by hand: on a CPU, where that was measured to gain, and not of a quantised
    module, nor where torch compiles what it sees."""
    on_cpu = type(linear) is torch.nn.Linear and linear.weight.device.type == "cpu"
    return on_cpu and not torch.compiler.is_compiling()


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient, weight.T, None), None, None


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        seen: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
    ) -> Tensor:
        # [K, R, d]: with its long side in turn a thin product takes half the time or less (MKL, 240 x 128 x 8).
        across = a.to(x.dtype).transpose(1, 2).contiguous()
        b, scale = b.to(x.dtype), scale.to(x.dtype).view(-1, 1, 1)
        read = x if seen is None else seen
        low = torch.bmm(read, across.transpose(1, 2)).mul_(scale)
        ctx.save_for_backward(read, weight, across, b, scale, low)
        ctx.alike = seen is None
        return _product(x, weight, bias).baddbmm_(low, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        read, weight, across, b, scale, low = ctx.saved_tensors
        of_x, of_seen = ctx.needs_input_grad[:2]
        gradient = gradient.contiguous()
        of_low = torch.bmm(gradient, b.transpose(1, 2)).mul_(scale)
        of_a = torch.bmm(of_low.transpose(1, 2), read).transpose(1, 2)
        of_b = torch.bmm(low.transpose(1, 2), gradient)
        to_x = _product(gradient, weight.T, None) if of_x else None
        if to_x is not None and ctx.alike:
            to_x.baddbmm_(of_low, across)
        to_seen = torch.bmm(of_low, across) if of_seen else None
        # Leaves are float32, whatever the base is.
        return to_x, to_seen, None, None, of_a.float(), of_b.float(), None


def _linear(linear: Any, x: Tensor) -> Tensor:
    return _product(x, linear.weight, linear.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype == torch.float32 and x.device.type == "cpu" and by_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
        return found
    return F.linear(x, weight, bias)


@cache
def by_onednn() -> bool:
    """Whether oneDNN multiplies float32 faster than MKL, by which torch does it: MKL uses AVX-512 on Intel's processors
    alone. On an AMD EPYC oneDNN reaches 220 GFLOPS a core and MKL 105."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False

"""Tensors without data, for running the project's own code in order to see what it holds in memory.

They are torch's fake tensors: they have shapes, types and storages of the right size, and autograd and autocast treat them as
tensors of the CPU, which keep the same types under bf16 autocast as those of a GPU. Small tensors that decide something
(tokens, positions, weights of positions) stay real, so that code which looks at them goes its usual way.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)


def without_data(module: Module) -> Module:
    """The module itself, each of its parameters replaced by a fake one; parameters that were shared stay shared."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                if parameter not in replaced:
                    with _FAKE:
                        values = torch.empty(parameter.shape, dtype=parameter.dtype)
                    replaced[parameter] = nn.Parameter(values, requires_grad=parameter.requires_grad)
                part._parameters[name] = replaced[parameter]
    return module


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators made inside and that are still held, and those of the modules that are
    added. `peak`: the most since `restart`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._held: set[int] = set()

    def restart(self) -> None:
        self.peak = self.now

    def add_module(self, module: nn.Module) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (key := id(storage)) not in self._held:
            self._held.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return func(*args)
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return args[0].dtype == torch.bool or 0  # all is finite, and every number is 0
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            args, func = (args[0], (args[0].numel(), args[0].dim())), torch.ops.aten.new_empty.default  # all elements, at worst
            kwargs = {"dtype": torch.int64}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return result


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: queries, keys, values, mask, result and a sum for each query, but no scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mask, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(torch.empty_like(x) for x in ctx.saved_tensors[:3]), None


class _Kernels(TorchFunctionMode):
    """Stands in for what has no fake form: fused attention, and numpy's view of a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and any(isinstance(x, FakeTensor) for x in args):
            query, key, value, *_ = args
            return self._attention(query, key, value, kwargs.get("attn_mask"))
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.zeros(args[0].shape, np.float32)
        return func(*args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Any:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        mask = mask.to(query.dtype) if mask is not None else None  # the kernels add it to the scores
        return _FusedAttention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]


@contextmanager
def counting_bytes() -> Iterator[LiveBytes]:
    """Inside, code runs on tensors without data, and its bytes are counted."""
    with LiveBytes() as live, _Kernels():
        yield live

"""A device "second" for machines without one: its tensors lie in main memory, but do not mix with those of the CPU.

What holds on it holds on a GPU: who forgets to move a tensor gets an error, and so does ``numpy()`` of a tensor there.
Kernels, precision and speed are the CPU's. Importing this module adds the device to the process for good, so tests do
that in processes of their own: ``python -c``, or ``pytest -p second_device``, under which training runs on it.
"""

from __future__ import annotations

import collections
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
"""What may see tensors of both devices."""
INDEXED = ("aten::index.", "aten::index_put", "aten::_index_put_impl", "aten::_unsafe_index")
"""Their second argument, the indices, may lie on the CPU, as on CUDA."""


class SecondTensor(torch.Tensor):
    """A tensor on the second device, around one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        if inner.device.type == "meta":  # accelerate makes a parameter anew, of the class that it had
            return torch.nn.Parameter(inner, requires_grad)
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=torch.device(NAME, 0), **layout
        )

    def __init__(self, inner, requires_grad=False):
        self.inner = _inner(inner)
        self.held = _Held(self.inner.untyped_storage())
        self._is_param = requires_grad  # what accelerate makes again of a parameter stays one

    def __repr__(self, **_):
        return f"second({self.inner!r})"

    def __format__(self, spec):
        return format(self.inner, spec)

    def tolist(self):
        return self.inner.tolist()

    def data_ptr(self):
        return self.inner.data_ptr()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, call, types, args=(), kwargs=None):
        return _run(call, args, kwargs or {})


def _run(call, args, kwargs):
    if call is aten._has_compatible_shallow_copy_type.default:
        return False
    leaves = tree_leaves((args, kwargs))
    here = {id(one.inner): one for one in leaves if isinstance(one, SecondTensor)}
    if call.name().startswith(INDEXED):
        leaves = tree_leaves((args[0], args[2:], kwargs))
    there = [one for one in leaves if isinstance(one, torch.Tensor) and not isinstance(one, SecondTensor) and one.ndim]
    if call not in MOVES and here and there:
        raise RuntimeError(
            f"{call}: tensors on {NAME}:0 and on the CPU, these of {[tuple(one.shape) for one in there]}"
        )
    if call is aten.copy_.default and not isinstance(args[0], SecondTensor):
        args[0].copy_(args[1].inner)
        return args[0]
    asked = kwargs.get("device")
    stays = bool(here) if asked is None else torch.device(asked).type == NAME
    moved = kwargs | ({"device": torch.device("cpu")} if asked is not None and stays else {})
    out = call(*tree_map(_inner, args), **tree_map(_inner, moved))
    return tree_map(lambda one: _outer(one, here) if isinstance(one, torch.Tensor) and stays else one, out)


def _inner(one):
    return one.inner if isinstance(one, SecondTensor) else one


def _outer(one, here):
    same = here.get(id(one))  # what worked in place returns what it was given
    return same if same is not None and same.shape == one.shape else SecondTensor(one)


class _Held:
    """The storage of one tensor, for as long as that is alive; counts the bytes of all."""

    tensors: ClassVar[collections.Counter] = collections.Counter()  # by their storage
    now = most = 0

    def __init__(self, storage):
        self.place, self.size = storage._cdata, storage.nbytes()
        if not _Held.tensors[self.place]:
            _Held.now += self.size
            _Held.most = max(_Held.most, _Held.now)
        _Held.tensors[self.place] += 1

    def __del__(self):
        _Held.tensors[self.place] -= 1
        if not _Held.tensors[self.place]:
            _Held.now -= self.size


class _Module(backend_registration._DummyBackendModule):
    def synchronize(self, device=None):
        pass

    empty_cache = synchronize

    def mem_get_info(self, device=None):
        return 16 * 2**30 - _Held.now, 16 * 2**30

    def memory_allocated(self, device=None):
        return _Held.now

    def max_memory_allocated(self, device=None):
        return _Held.most

    def reset_peak_memory_stats(self, device=None):
        _Held.most = _Held.now

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


def _install():
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")

    def impl(name, make):
        library.impl(name, make, "PrivateUse1")

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return SecondTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))

    def copy(source, target, non_blocking=False):
        _inner(target).copy_(_inner(source))
        return target

    impl("empty.memory_format", empty)

    def strided(size, stride, dtype=None, **_):
        return SecondTensor(torch.empty_strided(size, stride, dtype=dtype))

    impl("empty_strided", strided)
    impl("eye", lambda n, dtype=None, **_: SecondTensor(torch.eye(n, dtype=dtype)))
    impl("_copy_from", copy)
    torch.__future__.set_swap_module_params_on_conversion(True)  # `.to` keeps parameters, as between CPU and CUDA
    Accelerator.device = property(lambda self: torch.device(NAME, 0))  # which it cannot know
    return library  # lives as long as the process


_library = _install()

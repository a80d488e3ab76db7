"""One run of a module in which every operator is noted: see `trace`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator

from . import geometry
from .attention import attention_of_a_processor
from .fields import place_of, place_on
from .formulas import MACS, OTHERS, attention_others, kind_of, label, outer_numbers
from .notes import Ledger, Note, Open, alias_of, from_picture, note_of
from .place import Place, free, start
from .running import (
    Shapes,
    entries,
    flat,
    held,
    not_compiled,
    once_each,
    shape_only,
    tensors,
    tensors_in,
    watching,
    with_numbers,
)
from .shortcuts import spread
from .undo import as_it_was


def _is_leaf(module: nn.Module) -> bool:
    return all(name == "parametrizations" for name in module._modules)


def _is_torchs(module: nn.Module) -> bool:
    """Whether a module without submodules is a layer of PyTorch, or of a class derived from one."""
    kinds = (kind for kind in type(module).__mro__[:2] if kind is not nn.Module)
    return any(kind.__module__.startswith("torch.nn.modules") for kind in kinds)


class Run(Shapes):
    """One computation of a module: it is the dispatch mode, and it fills `layers`."""

    def __init__(self, module: nn.Module, real: bool) -> None:
        super().__init__()
        self.module, self.real = module, real
        self.layers: list[Open] = []
        self.ledger = Ledger()
        self.read: set[str] = set()  # parameters that a layer has been given
        self.touched: dict[str, Open | None] = {}  # those that any operator has read, and the layer that was first
        self.held: list[Tensor] = []  # tensors in objects among the arguments
        self.inside = False  # no tensor arrives at all: the module makes its input itself, of a text or an array
        self.ran: set[str] = set()
        self.uncounted: dict[str, int] = {}
        self._stack: list[tuple[str, nn.Module, bool]] = []
        self._leaf: list[Open | None] = []
        self._arrived: list[list[Tensor]] = []
        self._parameters: dict[int, str] = {}  # id -> path
        self._sizes: dict[str, tuple[int, bool]] = {}  # path -> numbers, and whether they are trained

    # --- running -------------------------------------------------------------------------------------------------

    def go(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute the module on the arguments, in evaluation mode and without gradients."""
        with ExitStack() as stack:
            self._undo = stack.enter_context(as_it_was(self.module, values=self.real))
            if not self.real:
                self.swap(self.module)
                stack.enter_context(attention_of_a_processor(self.module))
            for path, parameter in self.module.named_parameters(remove_duplicate=False):
                self._parameters.setdefault(id(parameter), path)
                self._sizes[path] = entries(parameter), parameter.requires_grad
            self._buffers = {id(b) for b in self.module.buffers()}
            self.held = held((args, kwargs))
            given = tensors((args, kwargs))
            self.inside = not self.held and not given
            self._numbers = {id(t): k for k, t in reversed(list(enumerate(given)))}
            args, kwargs = once_each(self._input, (args, kwargs))
            stack.callback(self._forget)
            for t in self.held:
                self._begin(t)
            stack.enter_context(torch.no_grad())
            stack.enter_context(not_compiled())
            stack.enter_context(watching(self.module, self._entered, self._left))
            stack.enter_context(self)
            outputs = self.module(*args, **kwargs)
            for name, layer in self.touched.items():
                if layer is not None and name not in self.read:
                    self._credit(layer, [name])
            return outputs

    def _input(self, x: Tensor) -> Tensor:
        number = self._numbers[id(x)]
        if self.real:
            parameter, x = next(self.module.parameters(), None), with_numbers(x).detach().clone()
            x = x if parameter is None else x.to(parameter.device)
        elif x.is_floating_point() or x.is_complex():
            x = shape_only(x)
        else:  # masks and token ids keep their numbers, for code that looks at them
            x = x.detach().clone()
        return self._begin(x, number)

    def _begin(self, x: Tensor, number: int = 0) -> Tensor:
        """Note a tensor as an input."""
        place = start(tuple(x.shape), not (x.is_floating_point() or x.is_complex()))
        block = self.ledger.block(entries(x) * x.element_size())
        x._neocog = Note((-1 - number,), place, block)  # type: ignore[attr-defined]
        return x

    def _forget(self) -> None:
        """Leave no note on tensors that were there before."""
        own = (*self.module.parameters(), *self.module.buffers()) if self.real else ()  # else stand-ins were noted
        for t in (*self.held, *own):
            if note_of(t) is not None:
                del t._neocog  # type: ignore[attr-defined]

    def _entered(self, module: nn.Module, path: str, args: Any) -> None:
        self.ran.add(path)
        self._stack.append((path, module, _is_leaf(module) and (bool(path) or _is_torchs(module))))
        self._leaf.append(None)
        self._arrived.append(tensors(args))

    def _left(self, module: nn.Module, path: str, given: Any, output: Any) -> None:
        _, _, leaf = self._stack.pop()
        layer, arrived = self._leaf.pop(), self._arrived.pop()
        if not leaf or any(entry[2] for entry in self._stack):
            return
        results = tensors(output)
        if layer is None:  # nothing was computed (Identity, Flatten, Dropout): listed all the same
            layer = self._open(path, path, type(module).__name__)
            for t in arrived:
                self._note_input(layer, t)
            for t in results:
                if (note := note_of(t)) is not None and not any(t is a for a in arrived):
                    self._credit(layer, note.names)  # an embedding of constants reads its table here
                    t._neocog = Note((layer.index,), note.place, note.block)  # type: ignore[attr-defined]
        elif arrived:  # as the module was given them, before its own views
            layer.inputs = [tuple(t.shape) for t in ([t for t in arrived if from_picture(t)] or arrived)]
        layer.outputs = tuple(tuple(t.shape) for t in results)
        if results and (note := note_of(results[0])) is not None:
            layer.note(note)

    def _open(self, name: str, module: str, kind: str) -> Open:
        layer = Open(len(self.layers), name, module, kind)
        self.layers.append(layer)
        return layer

    # --- operators -----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.higher(func, args)
        if result is not NotImplemented:
            return result
        known = _KNOWN.get(func)
        if known is None:
            known = _KNOWN[func] = kind_of(func)
        name, kind = known
        tensors = tensors_in(args, kwargs)
        mutable = not isinstance(func, HigherOrderOperator) and func._schema.is_mutable
        if self.real and mutable:
            self._undo.writes_to(tensors)
        given = tensors
        result, args, tensors = self.compute(func, args, kwargs, tensors)
        self._record(name, kind, func, args, kwargs, tensors, result)
        if mutable and given and isinstance(result, Tensor):
            self._written(given[0], result)
        return result

    def _record(
        self, name: str, kind: str, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], result: Any
    ) -> None:
        results = [result] if isinstance(result, Tensor) else [r for r in flat(result) if isinstance(r, Tensor)]
        if not results:
            return
        active: list[tuple[Tensor, Note]] = []
        names: list[str] = []
        makers: list[int] = []
        for t in tensors:
            parameter = self._parameters.get(id(t))
            if parameter is not None:
                names.append(parameter)
                continue
            note = note_of(t)
            if note is None and self.inside and id(t) not in self._buffers:
                note = note_of(self._begin(t))
            if note is not None and note.sources:
                active.append((t, note))
            elif note is not None:
                names.extend(note.names)
                makers.extend(note.makers)
        if not active:  # parameters and constants among themselves
            layer = self._layer(name, kind) if names and kind != "free" else None
            made = tuple(makers) if layer is None else (layer.index,)
            for r in results:
                if id(r) not in self._parameters:
                    r._neocog = Note((), None, None, tuple(names), made)  # type: ignore[attr-defined]
            if layer is not None:
                layer.reads(makers)
                self._cost(layer, name, kind, func, args, kwargs, results[0])
                layer.operators.append(label(func))
                if layer.name == layer.module:  # a layer has its parameters; else whatever reads the result does
                    self._credit(layer, names)
            for n in names:
                self.touched[n] = self.touched.get(n) or layer
            return
        alias = alias_of(results[0], tensors)
        layer = self._layer(name, kind)
        self.touched.update((n, self.touched.get(n)) for n in names)
        if layer is not None:
            for t, note in active:
                self._note_input(layer, t, note)
            layer.reads(makers)
            self._credit(layer, names)
            self._cost(layer, name, kind, func, args, kwargs, results[0])
            layer.operators.append(label(func))
        read = [t for t, _ in active]
        sources = tuple(dict.fromkeys(s for _, n in active for s in n.sources)) if layer is None else (layer.index,)
        old = None
        for index, r in enumerate(results):
            place = self._place(name, kind, args, kwargs, read, r, results, index)
            if alias is None:
                size = entries(r) * r.element_size()
                block = self.ledger.block(size)
                if layer is not None and not (index and name in _SECOND_RESULTS):
                    layer.output_bytes += size
            else:
                old = note_of(alias)
                block = None if old is None else old.block  # type: ignore[assignment]
            r._neocog = Note(sources, place, block)  # type: ignore[attr-defined]
        if layer is not None and layer.name != layer.module:
            layer.outputs = tuple(tuple(r.shape) for r in results[: 1 if name in _SECOND_RESULTS else None])
            layer.note(results[0]._neocog)  # type: ignore[attr-defined]

    def _written(self, t: Tensor, result: Tensor) -> None:
        """An operator has changed a tensor in place: so is what it is a part of."""
        note, base = note_of(result), t._base
        if note is None or not note.sources:
            return
        t._neocog = note  # type: ignore[attr-defined]
        if base is None:
            return
        old = note_of(base)
        sources = tuple(dict.fromkeys((*(() if old is None else old.sources), *note.sources)))
        offsets: dict[int, int] | None = None
        if t.dim() == base.dim() and t.stride() == base.stride():
            offsets, rest = {}, t.storage_offset() - base.storage_offset()
            for d in sorted(range(t.dim()), key=base.stride, reverse=True):
                offsets[d], rest = divmod(int(rest), int(base.stride(d))) if base.stride(d) else (0, rest)
        shape = tuple(base.shape)
        place = geometry.written(place_on(base) or free(shape), shape, note.place, offsets)
        made = Note(sources, place, None if old is None else old.block)
        base._neocog = made  # type: ignore[attr-defined]
        if (known := self.stand_ins.get(id(base))) is not None:
            known[1]._neocog = made  # type: ignore[attr-defined]

    def _place(
        self, name: str, kind: str, args: Any, kwargs: Any, read: list[Tensor], r: Tensor, results: list[Tensor],
        index: int,
    ) -> Place | None:  # fmt: skip
        if name in _SPLITS:
            dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % r.dim()
            before = sum(t.shape[dim] for t in results[:index])
            place = place_on(args[0])
            return None if place is None else geometry.sliced(place, dim, before, 1, r.shape[dim])
        if name == "unbind":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return place_of("select", kind, (args[0], dim, index), kwargs, read, r)
        if index and r.shape == results[0].shape:
            return note_of(results[0]).place  # type: ignore[union-attr]
        try:
            return None if index else place_of(name, kind, args, kwargs, read, r)
        except (AttributeError, IndexError, TypeError, ValueError):
            return None  # called in a way that the rule does not know: then what is seen is not known either

    def _layer(self, name: str, kind: str) -> Open | None:
        """The layer that an operator belongs to; None for one that only looks at numbers in another way."""
        if not self._stack:
            return None
        for depth, (path, module, leaf) in enumerate(self._stack):
            if leaf:
                if self._leaf[depth] is None:
                    if kind == "free" and name in _VIEWS:
                        return None
                    self._leaf[depth] = self._open(path, path, type(module).__name__)
                return self._leaf[depth]
        if kind == "free" and name not in _SHOWN:
            return None
        path, friendly = self._stack[-1][0], _FRIENDLY.get(name, name).lstrip("_")
        return self._open(f"{path}:{friendly}", path, friendly)

    def _note_input(self, layer: Open, t: Tensor, note: Note | None = None) -> None:
        note = note or note_of(t)
        if note is None:
            return
        outside = [s for s in note.sources if s != layer.index]
        if not outside:
            return
        fresh = [s for s in outside if s not in layer.sources]
        if fresh or tuple(t.shape) not in layer.inputs:
            layer.inputs.append(tuple(t.shape))
            layer.sources.extend(fresh)

    def _credit(self, layer: Open, names: Sequence[str]) -> None:
        """Give a layer the parameters that it reads; those that another has read before are shared."""
        for name in names:
            if name in layer.parameters:
                continue
            layer.parameters.append(name)
            count, trained = self._sizes[name]
            if name in self.read:
                layer.shared += count
            else:
                self.read.add(name)
                layer.params += count
                layer.frozen += 0 if trained else count

    def _cost(self, layer: Open, name: str, kind: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        if kind == "macs":
            layer.macs += MACS[name](args, out) * (3 if out.is_complex() else 1)
            if name.endswith("convolution"):
                weight, axes = args[1], args[1].dim() - 2
                layer.weights += weight.numel()
                stride, padding, dilation = (spread(args[i], axes) for i in (3, 4, 5))
                layer.settings.update(
                    kernel=tuple(weight.shape[2:]), stride=stride, padding=padding, dilation=dilation,
                    groups=args[8], transposed=bool(args[6]), bias=args[2] is not None,
                    output_padding=spread(args[7], axes) if args[6] else (0,) * axes,
                )  # fmt: skip
            else:
                layer.weights += sum(
                    t.numel() for t in args if isinstance(t, Tensor) and t.dim() > 1 and not from_picture(t)
                )
                if name == "_trilinear":
                    layer.others += outer_numbers(args, (0, 2))
                if name == "flex_attention":
                    self._uncounted("flex_attention.score_mod", args[3])
                    self._uncounted("flex_attention.mask_mod", args[4][-1])
                if "attention" in name:
                    layer.others += attention_others(args, kwargs)
        elif kind == "others":
            layer.others += OTHERS[name](args, out)
            if "pool" in name and "adaptive" not in name and "unpool" not in name:
                axes = int(next(c for c in name if c.isdigit()))
                kernel = spread(args[1], axes)
                layer.settings.update(
                    kernel=kernel,
                    stride=spread(args[2], axes) if len(args) > 2 and args[2] else kernel,
                    padding=spread(args[3], axes) if len(args) > 3 else (0,) * axes,
                )
        elif kind == "pointwise":
            layer.others += out.numel()
        elif kind == "unknown":
            self._uncounted(label(func))

    def _uncounted(self, what: str, function: Any = None) -> None:
        """Name what has no formula; of functions those that compute something."""
        if getattr(function, "__name__", "") not in ("_identity", "noop_mask"):
            self.uncounted[what] = self.uncounted.get(what, 0) + 1


_KNOWN: dict[Any, tuple[str, str]] = {}
_SECOND_RESULTS = frozenset(
    "native_batch_norm cudnn_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "native_layer_norm native_group_norm _fused_rms_norm native_dropout "
    "_scaled_dot_product_flash_attention_for_cpu".split()
)  # their further results are statistics or masks that nobody reads in evaluation
_SPLITS = frozenset("split split_with_sizes unsafe_split unsafe_split_with_sizes chunk split_with_sizes_copy".split())
_VIEWS = frozenset(
    "view _unsafe_view reshape _reshape_alias transpose permute t expand slice select split split_with_sizes chunk "
    "unbind squeeze unsqueeze detach alias as_strided narrow diagonal lift lift_fresh _local_scalar_dense".split()
)
# Free operators that a reader wants to see as a step of their own where a containing module calls them.
_SHOWN = frozenset(
    "cat stack constant_pad_nd reflection_pad2d replication_pad2d pixel_shuffle channel_shuffle native_channel_shuffle "
    "max_unpool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d embedding gather index index_select roll "
    "where topk sort".split()
)
_FRIENDLY = {"mm": "matmul", "bmm": "matmul", "addmm": "linear", "baddbmm": "matmul", "native_batch_norm": "batch_norm",
             "_safe_softmax": "softmax", "native_layer_norm": "layer_norm", "max_pool2d_with_indices": "max_pool2d",
             "constant_pad_nd": "pad", "_scaled_dot_product_flash_attention_for_cpu": "attention",
             "native_group_norm": "group_norm"}  # fmt: skip

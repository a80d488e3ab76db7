"""Shortcuts for shapes against PyTorch's own code for the meta device, and the choice of the way of attention."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from neocog.anatomy.attention import one_operator
from neocog.anatomy.shortcuts import SHORTCUTS
from neocog.anatomy.trace import trace

aten: Any = torch.ops.aten
META = torch.device("meta")


def seen(value: Any) -> list[Any]:
    """Shape, type and those strides that mean something."""
    return [
        (tuple(t.shape), t.dtype, [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1] if t.numel() else [])
        for t in pytree.tree_leaves(value)
    ]


def compare(operator: Any, *args: Any, **kwargs: Any) -> None:
    """The shortcut gives what PyTorch gives, or leaves it to PyTorch, as all that PyTorch refuses."""
    error: Exception | None = None
    try:
        expected = operator(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError) as refused:
        error = refused
    try:
        made = SHORTCUTS[operator](args, kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError):
        assert error is not None
        return
    if made is not None:
        assert error is None
        assert seen(made) == seen(expected)


@st.composite
def layouts(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of this shape: in rows, channels last, transposed, a slice, or repeated."""
    kind = draw(st.sampled_from(["rows", "rows", "moved", "slice", "step", "repeated"]))
    rank = len(shape)
    if kind == "moved":
        order = draw(st.permutations(range(rank)))
        back = [order.index(i) for i in range(rank)]
        return torch.empty([shape[i] for i in order], dtype=dtype, device=META).permute(back)
    if kind in ("slice", "step") and rank:
        dim = draw(st.integers(0, rank - 1))
        step = 2 if kind == "step" else 1
        larger = torch.empty([n * step + 3 if i == dim else n for i, n in enumerate(shape)], dtype=dtype, device=META)
        return larger[(slice(None),) * dim + (slice(1, 1 + n * step, step) if (n := shape[dim]) else slice(0, 0),)]
    if kind == "repeated" and rank:
        dim = draw(st.integers(0, rank - 1))
        one = torch.empty([1 if i == dim else n for i, n in enumerate(shape)], dtype=dtype, device=META)
        return one.expand(shape)
    return torch.empty(shape, dtype=dtype, device=META)


def shapes(least: int = 0, most: int = 5, smallest: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(smallest, 5), min_size=least, max_size=most).map(tuple)


dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64])
ALIKE = [op for op in SHORTCUTS if str(op).endswith(("_like.default",))]
ONE = [
    op for op in SHORTCUTS
    if sum(a.type.kind() == "TensorType" for a in op._schema.arguments) == 1 and str(op).rpartition(".")[2] == "default"
    and "pool" not in str(op) and op not in ALIKE
]  # fmt: skip
TWO = [op for op in SHORTCUTS if str(op).endswith(".Tensor")]
NUMBER = [op for op in SHORTCUTS if str(op).endswith(("Scalar", "Tensor_Scalar"))]


@given(st.data(), st.sampled_from(ONE), shapes(smallest=0), dtypes)
def test_operators_on_one_tensor(data: st.DataObject, operator: Any, shape: Any, dtype: torch.dtype) -> None:
    x = data.draw(layouts(shape, dtype))
    assume(not (str(operator).endswith("_.default") and 0 in x.stride() and x.numel()))  # nobody may write there
    assume("hardtanh" not in str(operator) or dtype.is_floating_point)
    compare(operator, x)


@given(st.data(), st.sampled_from(ALIKE), shapes(smallest=0), dtypes)
def test_tensors_made_like_others(data: st.DataObject, operator: Any, shape: Any, dtype: torch.dtype) -> None:
    named = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from([torch.float32, torch.float64]),
                "memory_format": st.sampled_from([torch.preserve_format, torch.contiguous_format, torch.channels_last]),
            },
        )
    )
    compare(operator, data.draw(layouts(shape, dtype)), **named)


@given(st.data(), st.sampled_from(TWO), shapes(), dtypes, dtypes)
@settings(max_examples=200)
def test_operators_on_two_tensors(
    data: st.DataObject, operator: Any, shape: Any, dtype: torch.dtype, other: torch.dtype
) -> None:
    x = data.draw(layouts(shape, dtype))
    second = tuple(data.draw(st.sampled_from([n, n, 1, 2])) for n in shape[data.draw(st.integers(0, len(shape))) :])
    y = data.draw(layouts(second, other))
    assume(not (str(operator).endswith("_.Tensor") and 0 in x.stride() and x.numel() > 1))
    if data.draw(st.booleans()) and not str(operator).endswith("_.Tensor"):
        x, y = y, x
    compare(operator, x, y)


@given(st.data(), st.sampled_from(NUMBER), shapes(), dtypes, st.sampled_from([2, 0.5, True]))
def test_operators_with_a_number(
    data: st.DataObject, operator: Any, shape: Any, dtype: torch.dtype, number: float
) -> None:
    x = data.draw(layouts(shape, dtype))
    assume(not ("_.Scalar" in str(operator) and 0 in x.stride() and x.numel() > 1))
    assume(not (str(operator).startswith("aten.sub") and number is True))
    compare(operator, x, number)


@given(st.data(), st.sampled_from([op for op in SHORTCUTS if "_pool" in str(op) and "adaptive" not in str(op)]))
@settings(max_examples=200)
def test_pooling(data: st.DataObject, operator: Any) -> None:
    axes = 3 if "3d" in str(operator) else 2
    sizes = st.one_of(st.integers(1, 4).map(lambda n: [n]), st.lists(st.integers(1, 4), min_size=axes, max_size=axes))
    padding = st.lists(st.integers(0, 2), min_size=axes, max_size=axes)
    shape = data.draw(st.lists(st.integers(1, 9), min_size=axes + 1, max_size=axes + 2).map(tuple))
    settings = [data.draw(sizes), data.draw(st.one_of(st.just([]), sizes)), data.draw(padding)]
    if "max" in str(operator):
        settings.append(data.draw(sizes))
    settings.append(data.draw(st.booleans()))
    x = data.draw(layouts(shape))
    if axes == 3:
        assume(x.is_contiguous())  # PyTorch's code for volumes looks at strides in a way of its own
    compare(operator, x, *settings[: data.draw(st.integers(1, len(settings)))])


@given(st.data(), shapes(least=2), st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_adaptive_pooling(data: st.DataObject, shape: Any, sides: list[int]) -> None:
    compare(aten._adaptive_avg_pool2d.default, data.draw(layouts(shape)), sides)


@given(st.data(), st.sampled_from([aten.mean.dim, aten.sum.dim_IntList]), shapes(), dtypes, st.booleans())
def test_sums_over_dimensions(data: st.DataObject, operator: Any, shape: Any, dtype: torch.dtype, keep: bool) -> None:
    dims = data.draw(st.lists(st.integers(-5, 4), max_size=3))
    compare(operator, data.draw(layouts(shape, dtype)), dims, keep)


@given(st.data(), *(st.integers(1, 4) for _ in range(4)))
def test_products(data: st.DataObject, n: int, k: int, m: int, other: int) -> None:
    bias = data.draw(st.sampled_from([(m,), (n, m), (1,), (1, m), (other,)]))
    a, b = data.draw(layouts((n, k))), data.draw(layouts((data.draw(st.sampled_from([k, other])), m)))
    compare(aten.addmm.default, data.draw(layouts(bias)), a, b)


@given(st.data(), shapes(least=1), st.integers(-5, 4), st.integers(1, 3))
@settings(max_examples=200)
def test_concatenation(data: st.DataObject, shape: Any, dim: int, count: int) -> None:
    parts = []
    for _ in range(count):
        sides = list(shape)
        if -len(shape) <= dim < len(shape):
            sides[dim] = data.draw(st.integers(0, 3))
        if data.draw(st.integers(0, 9)) == 0:
            sides[0] += 1
        parts.append(data.draw(layouts(tuple(sides), data.draw(st.sampled_from([torch.float32] * 4 + [torch.half])))))
    compare(aten.cat.default, parts, dim)


@given(st.data(), st.integers(1, 3), st.booleans(), st.integers(1, 3))
@settings(max_examples=300)
def test_convolution(data: st.DataObject, axes: int, turned: bool, groups: int) -> None:
    sizes = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    few = st.lists(st.integers(0, 2), min_size=axes, max_size=axes)
    a, b = data.draw(st.integers(1, 3)) * groups, data.draw(st.integers(1, 3)) * groups
    kernel, stride, dilation = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    extra = [min(e, s - 1) for e, s in zip(data.draw(few), stride, strict=True)] if turned else [0] * axes
    x = data.draw(layouts((2, a, *data.draw(st.lists(st.integers(1, 8), min_size=axes, max_size=axes)))))
    weight = (a, b // groups, *kernel) if turned else (b, a // groups, *kernel)
    given = (x, torch.empty(weight, device=META), None, stride, data.draw(few), dilation, turned, extra, groups)
    try:
        empty = 0 in aten.convolution.default(*given).shape
    except RuntimeError:
        empty = False
    if empty:  # on a processor that is an error
        with pytest.raises(RuntimeError, match="does not fit"):
            SHORTCUTS[aten.convolution.default](given, {})
    else:
        compare(aten.convolution.default, *given)


@given(shapes(least=2), st.booleans(), st.booleans())
def test_batch_normalisation_is_that_of_a_processor(shape: Any, training: bool, affine: bool) -> None:
    assume(not training or torch.Size(shape).numel() > shape[1])
    x, c = torch.rand(shape), shape[1]
    given = (torch.ones(c) if affine else None, torch.zeros(c) if affine else None, torch.zeros(c), torch.ones(c))
    expected = aten.native_batch_norm.default(x, *given, training, 0.1, 1e-5)
    shaped = pytree.tree_map_only(Tensor, lambda t: t.to(META), (x, *given))
    assert seen(SHORTCUTS[aten.native_batch_norm.default]((*shaped, training, 0.1, 1e-5), {})) == seen(expected)


@given(shapes(most=4, smallest=0), st.integers(1, 4), st.sampled_from([torch.int64, torch.int32, torch.float32]))
def test_embedding(shape: Any, features: int, dtype: torch.dtype) -> None:
    ids = torch.empty(shape, dtype=dtype, device=META)
    compare(aten.embedding.default, torch.empty((7, features), device=META), ids)


# --- attention -----------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float, bool, bool]:
    b, h, n, m, d = (draw(st.integers(1, 4)) for _ in range(5))
    keys = draw(st.sampled_from([h, h, h, 1, 2]))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float64]))
    q, k = torch.rand(b, h, n, d).to(dtype), torch.rand(b, keys, m, d).to(dtype)
    v = torch.rand(b, keys, m, draw(st.sampled_from([d, d, d, d + 1]))).to(dtype)
    kind = draw(st.sampled_from(["", "", "", "last", "three"]))
    if kind == "last":
        q = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif kind == "three":
        q, k, v = q[0], k[0], v[0]
    mask = draw(st.sampled_from([None, None, (n, m), (1, m), (b, h, n, m), (b, 1, 1, m), (h, n, m)]))
    made = None
    if mask is not None:
        made = torch.rand(mask).to(dtype) > 0.5 if draw(st.booleans()) else torch.rand(mask).to(dtype)
        if made.is_floating_point() and draw(st.booleans()):
            made.requires_grad_()
    causal = made is None and draw(st.booleans())
    return q, k, v, made, draw(st.sampled_from([0.0, 0.0, 0.1])), causal, draw(st.booleans())


@given(attentions())
@settings(max_examples=300)
def test_the_way_of_attention_is_that_of_a_processor(given: Any) -> None:
    q, k, v, mask, dropout, causal, grouped = given
    try:
        F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=grouped)
        choice = torch._fused_sdp_choice(q, k, v, mask, dropout, causal, enable_gqa=grouped)
    except RuntimeError:
        assume(False)
    flash = torch.nn.attention.SDPBackend.FLASH_ATTENTION.value
    assert one_operator(q, k, v, mask, dropout, causal, grouped) == (choice == flash)


def test_attention_makes_its_result_only() -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    function = F.scaled_dot_product_attention
    anatomy = trace(Attends(), torch.zeros(1, 2, 100, 8))
    assert [(x.kind, x.macs, x.output_bytes) for x in anatomy.layers] == [("attention", 2 * 160_000, 6400)]
    assert anatomy.others == 4 * 2 * 100 * 100  # scaling and softmax of the scores
    assert anatomy.peak_bytes == 2 * 6400 + 800  # the input, the result, and a number for each query and head
    assert F.scaled_dot_product_attention is function


@pytest.mark.slow
def test_nothing_large_is_imported() -> None:
    """PyTorch's own code for shapes needs a package for symbolic algebra, and its modes need its compiler."""
    code = (
        "import sys, torch\nfrom neocog import anatomy, nets\n"
        "for name in ('resnet18', 'mobilenet_v2', 'densenet40_k12'):\n"
        "    anatomy.trace(nets.build(name), nets.facts(name).input)\n"
        "print([name for name in ('sympy', 'torch._dynamo') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

"""Change a net as the advice says: a changed copy, ready to train, with its figures before and after.

Exact rewrites keep the function (in evaluation mode); the others put in new layers, and the net must be trained again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import NetError, UsageError, closest
from .rewrite_dilate import dilate
from .rewrite_exact import fold_bn, remove_dead_bias, remove_unused
from .rewrite_filters import chain_3x3, depthwise, groups, low_rank
from .rewrite_flow import Changes, copy_of
from .rewrite_head import fc_to_conv, global_pool
from .running import unwrapped
from .trace import trace
from .whole import Anatomy


@dataclass(frozen=True)
class Rewrite:
    """One rewrite: what it does, and what it keeps."""

    key: str
    what: str
    exact: bool  # same function in evaluation mode
    keeps: str  # what a user should know
    work: Callable[..., Any]

    @property
    def options(self) -> dict[str, Any]:
        """Keywords that `rewrite` hands over, with their defaults."""
        given = ("net", "input", "layers")
        return {k: p.default for k, p in inspect.signature(self.work).parameters.items() if k not in given}


_TRAIN = "new layers start with random weights: train the net (again)"

REWRITES: dict[str, Rewrite] = {
    item.key: item
    for item in (
        Rewrite("fold-bn", "batch normalisation becomes part of the layer before it", True,
                "same function in evaluation mode; further training has no normalisation", fold_bn),
        Rewrite("fc-to-conv", "fully connected layers become convolutions", True,
                "same function at the old size, larger pictures work; a torch.fx.GraphModule that has the branches of "
                "evaluation mode", fc_to_conv),
        Rewrite("remove-dead-bias", "biases that the normalisation behind them cancels are removed", True,
                "same function in evaluation and in training", remove_dead_bias),
        Rewrite("remove-unused", "modules and parameters that are never read are removed", True,
                "same function in evaluation and in training", remove_unused),
        Rewrite("chain-3x3", "large filters become chains of 3x3 filters with ReLU between", False, _TRAIN, chain_3x3),
        Rewrite("depthwise", "dense filters become one filter per channel and a 1x1 convolution", False, _TRAIN,
                depthwise),
        Rewrite("groups", "dense filters become groups of filters and a 1x1 convolution", False, _TRAIN, groups),
        Rewrite("low-rank", "k x k filters become k x 1 and 1 x k", False,
                "starts near the old function where the relative error is small: train the net (again)", low_rank),
        Rewrite("global-pool", "the fully connected head becomes the mean of each map and one linear layer", False,
                _TRAIN, global_pool),
        Rewrite("dilate", "the last strides become dilation", False,
                "same weights, same values at the old positions and new ones between: train the net (again)", dilate),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Rewritten:
    """What `rewrite` returns."""

    module: nn.Module
    rule: str
    changed: tuple[str, ...]  # names of the layers that were changed, removed or replaced
    before: Anatomy | None
    after: Anatomy | None
    exact: bool
    notes: tuple[str, ...] = ()  # one line per changed layer, then what was left alone and why, then what to know

    def rows(self) -> list[tuple[str, int, int]]:
        """(figure, before, after) for one example: parameters, MACs, bytes of weights and of activations."""
        if self.before is None or self.after is None:
            return []
        rows = [
            ("parameters", self.before.params, self.after.params),
            ("MACs", self.before.macs, self.after.macs),
            ("weights, bytes", self.before.param_bytes, self.after.param_bytes),
            ("activations in evaluation, bytes", self.before.peak_bytes, self.after.peak_bytes),
        ]
        if self.before.training_bytes is not None and self.after.training_bytes is not None:
            rows.append(("activations in training, bytes", self.before.training_bytes, self.after.training_bytes))
        return rows

    def __str__(self) -> str:
        lines = [f"{self.rule}: {REWRITES[self.rule].what}", f"{'':34}{'before':>16}{'after':>16}{'change':>9}"]
        for figure, old, new in self.rows():
            change = f"{100 * (new - old) / old:+.1f} %" if old else ""
            lines.append(f"{figure:34}{old:>16,}{new:>16,}{change:>9}")
        return "\n".join([*lines, *self.notes])


def rewrite(
    module: nn.Module, rule: str, input: Any = None, layers: Sequence[str] | None = None, **options: Any
) -> Rewritten:
    """Return a changed copy of `module`; the module itself is left alone.

    Args:
        module: any module.
        rule: key of `REWRITES`: "fold-bn", "chain-3x3" ...
        input: as in `trace`: a shape such as ``(3, 224, 224)``, or example arguments; nets of the zoo know theirs.
        layers: names of the layers to change; default: all that the rule is meant for.
        options: of the rule, see ``REWRITES[rule].options``: `width`, `rank`, `groups`, `stride` ...

    Raises:
        UsageError: unknown rule or option, no input.
        NetError: nothing to change, or a change that cannot be made; the message says why.
    """
    if rule not in REWRITES:
        raise UsageError(
            f"unknown rewrite {rule!r}{closest(str(rule), REWRITES)}; expected one of {', '.join(REWRITES)}"
        )
    chosen = REWRITES[rule]
    for key in options:
        if key not in chosen.options:
            known = ", ".join(f"{k}={v!r}" for k, v in chosen.options.items()) or "none"
            raise UsageError(f"{rule} has no option {key!r}{closest(key, chosen.options)}; its options are: {known}")
    if input is None:
        input = _usual_input(module)
    if layers is not None:
        if isinstance(layers, str):
            layers = [layers]
        if rule == "fc-to-conv":
            raise UsageError("fc-to-conv changes the whole head, so it takes no layers=...")
        known_names = dict(module.named_modules())
        for name in layers:
            if name not in known_names:
                raise NetError(f"there is no layer {name!r}{closest(name, known_names)}")
    module = unwrapped(module)  # of torch.compile, DataParallel
    before = trace(module, input)
    net = copy_of(module)
    if rule == "fc-to-conv":
        net, changed = chosen.work(net, input, **options)
        left: Changes = {}
    else:
        changed, left = chosen.work(net, input, layers, **options)
    _refuse(rule, changed, left, layers)
    _own_up(module, net, rule)
    try:
        after = trace(net, input, name=before.name)
    except NetError as error:
        raise NetError(
            f"the code of {before.name} does not work with the layers that {rule} inserted "
            f"({error.__cause__ or error}); name layers that its code only calls: rewrite(..., layers=[...])"
        ) from error
    return Rewritten(
        module=net,
        rule=rule,
        changed=tuple(changed),
        before=before,
        after=after,
        exact=chosen.exact,
        notes=(
            *(f"{name}: {what}" for name, what in changed.items()),
            *(f"{name}: unchanged; {why}" for name, why in left.items()),
            chosen.keeps,
        ),
    )


def _usual_input(module: nn.Module) -> Any:
    """The input of a net that says so in `spec`."""
    spec = getattr(module, "spec", None) or (getattr(module, "rewritten", None) or {}).get("spec")
    if isinstance(spec, dict) and {"in_channels", "input_size"} <= set(spec):
        return (spec["in_channels"], spec["input_size"], spec["input_size"])
    raise UsageError("expected the input's shape; type rewrite(net, rule, (3, 224, 224)), or give example arguments")


def _refuse(rule: str, changed: Changes, left: Changes, layers: Sequence[str] | None) -> None:
    """Raise NetError where nothing, or not all that was asked for, could be done."""
    missing = [
        name
        for name in layers or ()
        if not any(f"{c}.".startswith(f"{name}.") or f"{name}.".startswith(f"{c}.") for c in changed)
    ]
    if changed and not missing:
        return
    reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
    what = ", ".join(missing) if missing else "this net"
    expected = {
        "fold-bn": "a convolution or linear layer whose output goes to a BN, and nowhere else",
        "remove-dead-bias": "a convolution or linear layer with a bias, whose output goes to a BN, and nowhere else",
        "remove-unused": "parameters that neither evaluation nor training reads",
    }.get(rule, "layers that the rule is meant for; name others with layers=[...]")
    raise NetError(f"{rule} finds nothing to do in {what}; expected {expected}{f' ({reasons})' if reasons else ''}")


def _own_up(old: nn.Module, new: nn.Module, rule: str) -> None:
    """A rewritten net must not claim to be what its `spec` would build; `head` must be its last layer still."""
    past = getattr(old, "rewritten", None) or {"spec": getattr(old, "spec", None), "rules": ()}
    for m in new.modules():
        if "spec" in m.__dict__ and isinstance(m.__dict__["spec"], dict):
            del m.__dict__["spec"]
    new.rewritten = {"spec": past["spec"], "rules": (*past["rules"], rule)}  # type: ignore[assignment]
    names = dict(new.named_modules())
    head = getattr(old, "head", None)
    if isinstance(head, str):
        last = names.get(head)
        if isinstance(last, nn.Sequential):  # what a rewrite put in its place: the last of it is the head
            keys = list(last._modules)
            head = f"{head}.{keys[-1]}" if keys else head
            last = names.get(head)
        can_change = (
            isinstance(last, nn.Linear)
            or (isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1))
            or hasattr(last, "with_classes")
        )
        new.head = head if can_change else None  # type: ignore[assignment]
    heads = getattr(old, "aux_heads", ())
    if any(name not in names for name in heads):
        new.aux_heads = tuple(name for name in heads if name in names)  # type: ignore[assignment]

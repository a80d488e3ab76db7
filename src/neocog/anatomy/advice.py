"""Advice: the design guidelines as a linter, with evidence from a trace, a concrete change and what it saves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UsageError, closest
from . import advice_rules, advice_waste
from .advice_view import Advice, View
from .whole import Anatomy

_SLIDES = "COMP541, lecture 5, guideline"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Its thresholds are keywords of `advise`; rules that look at the same thing share a threshold."""

    key: str
    what: str
    source: str
    check: Callable[..., Iterable[Advice]]

    @property
    def thresholds(self) -> dict[str, float]:
        """Names and usual values."""
        return {k: p.default for k, p in inspect.signature(self.check).parameters.items() if k != "view"}


RULES: dict[str, Rule] = {
    rule.key: rule
    for rule in (
        Rule("bottleneck", "the data volume H x W x C falls too fast from one layer to the next",
             f"{_SLIDES} 1; Szegedy et al. 2015, arXiv:1512.00567, principle 1", advice_rules.bottleneck),
        Rule("receptive-field", "the last positions see too little of the picture, or far more than it has",
             "COMP541, lecture 5, receptive field; Araujo, Norris, Sim 2019, doi 10.23915/distill.00021",
             advice_rules.receptive_field),
        Rule("large-filter", "a large filter that a chain of 3x3 filters replaces",
             f"{_SLIDES} 2; Simonyan, Zisserman 2014, arXiv:1409.1556, section 2.3", advice_rules.large_filter),
        Rule("heavy-layer", "a layer whose C x K weights dominate",
             f"{_SLIDES} 3; Lin et al. 2013, arXiv:1312.4400, section 3.2", advice_rules.heavy_layer),
        Rule("groups", "dense filters over many channels, where groups suffice",
             f"{_SLIDES} 4; Krizhevsky et al. 2012; Xie et al. 2016, arXiv:1611.05431", advice_rules.groups),
        Rule("depthwise", "dense filters over many channels, where one filter per channel and a 1x1 suffice",
             f"{_SLIDES} 4; Howard et al. 2017, arXiv:1704.04861, section 3.1", advice_rules.depthwise),
        Rule("low-rank", "k x k filters that a k x 1 and a 1 x k replace",
             f"{_SLIDES} 5; Jaderberg et al. 2014, arXiv:1405.3866", advice_rules.low_rank),
        Rule("dilation", "a net that answers for every position shrinks its map and enlarges it again",
             f"{_SLIDES} 6; Yu, Koltun 2015, arXiv:1511.07122; Chen et al. 2014, arXiv:1412.7062",
             advice_rules.dilation),
        Rule("linear-stack", "linear layers with no activation between", "arithmetic", advice_waste.linear_stack),
        Rule("sigmoid-stack", "chained sigmoids, through which gradients vanish",
             "Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
             advice_waste.sigmoid_stack),
        Rule("softmax-answer", "a softmax at the end, which cross-entropy applies again",
             "PyTorch, documentation of nn.CrossEntropyLoss: expects logits", advice_waste.softmax_answer),
        Rule("unused", "parameters that are never read", "arithmetic", advice_waste.unused),
        Rule("dead-bias", "biases that the normalisation behind them cancels",
             "Ioffe, Szegedy 2015, arXiv:1502.03167, section 3.2", advice_waste.dead_bias),
        Rule("activation", "activations that change nothing", "arithmetic", advice_waste.activation),
        Rule("dead-branch", "layers whose results reach no output", "arithmetic", advice_waste.dead_branch),
        Rule("padding-only", "weights that only ever meet padding", "arithmetic", advice_waste.padding_only),
        Rule("channels", "numbers of channels that do not fit matrix units",
             "NVIDIA, Deep Learning Performance, convolutional layers user's guide: channels in multiples of 8",
             advice_waste.channels),
    )
}  # fmt: skip


def advise(
    anatomy: Anatomy, module: nn.Module | None = None, rules: Iterable[str] | None = None, **thresholds: float
) -> list[Advice]:
    """Return what could be improved, the largest saving first; repeated findings are one item.

    Args:
        anatomy: of the net, at the input size that it is meant for.
        module: the net itself, if available: then parameters that only training reads do not count as unused.
        rules: keys of `RULES`; default: all of them.
        thresholds: see ``RULES[key].thresholds``; a threshold that several rules share applies to all of them.

    Raises: UsageError for an unknown rule or threshold.
    """
    chosen = list(RULES) if rules is None else [rules] if isinstance(rules, str) else list(rules)
    for key in chosen:
        if key not in RULES:
            raise UsageError(f"unknown rule {key!r}{closest(str(key), RULES)}; expected one of {', '.join(RULES)}")
    known = {name for rule in RULES.values() for name in rule.thresholds}
    for name, value in thresholds.items():
        if name not in known:
            raise UsageError(
                f"unknown threshold {name!r}{closest(name, known)}; expected one of {', '.join(sorted(known))}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UsageError(f"{name} must be a number above 0, got {value!r}")
    view = View(anatomy, module)
    found: list[Advice] = []
    for key in chosen:
        rule = RULES[key]
        limits: dict[str, Any] = {name: thresholds.get(name, usual) for name, usual in rule.thresholds.items()}
        found += rule.check(view, **limits)
    return sorted(found, key=view.score, reverse=True)

"""Judging the numbers of a training: each answer is a `Finding` with its evidence and with what to do.

No torch here, so that a report can be written without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neocog.errors import UsageError
from neocog.fit.recipes import still
from neocog.records import counted


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer: `verdict` is "good", "warn" or "bad", `evidence` has the numbers, `advice` may be empty."""

    name: str
    verdict: str
    evidence: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the fields, ready for a line of log.jsonl beside ``"kind": "diagnosis"``."""
        return asdict(self)


def initial_loss(loss: float, classes: int) -> Finding:
    """Compare the loss before the first step with ln(classes), the loss of a net that has no opinion.

    Label smoothing does not move that value. A random net is a little above it, as its logits are not quite equal.
    """
    if classes < 2:
        raise UsageError(f"initial loss: expected at least 2 classes, got {classes}")
    expected = math.log(classes)
    evidence = f"loss {loss:.3f} before the first step; a uniform guess among {classes} classes gives ln({classes}) = "
    evidence += f"{expected:.3f}"
    verdict, advice = "good", ""
    if not math.isfinite(loss):
        verdict = "bad"
        advice = "The net overflows before any training: check its initialisation, and that pixels are normalised."
    elif loss > 3 * expected:
        verdict = "bad"
        advice = "The net starts out confident and wrong. Check the scale of the last layer's weights and of the input."
    elif loss > 1.5 * expected:
        verdict = "warn"
        advice = "The logits start too large, and the first steps only shrink them: initialise the last layer smaller."
    elif loss < 0.7 * expected:
        verdict = "warn"
        advice = "Better than chance before training: expected with a pretrained head; otherwise labels may leak in."
    return Finding("initial loss", verdict, evidence, advice)


def read_update_ratios(ratios: Mapping[str, float], optimizer: str = "sgd") -> Finding:
    """Judge the ratios of one step in the middle of training (see `diagnose.update_ratios`); biases are passed over.

    With Muon, which gives each filter bank a step of a set length, ratios up to 0.3 are healthy.
    """
    usual, scale = "about 1e-3 is healthy", 1.0
    if optimizer.startswith("muon"):
        usual, scale = "0.01 to 0.1 is healthy with Muon", 30.0
    values = {name: ratio for name, ratio in ratios.items() if name.rpartition(".")[2] != "bias"} or dict(ratios)
    if not values:
        return Finding("update ratio", "warn", "no parameter was measured", "Measure parameters that are trained.")
    if broken := [n for n, v in values.items() if not math.isfinite(v)]:
        said = f"not finite in {', '.join(broken[:5])}"
        return Finding("update ratio", "bad", said, "Lower the learning rate, clip gradients.")
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    middle = float(np.median(list(values.values())))
    evidence = f"median {middle:.1e} of the weight per step over {len(values)} parameters; least {values[lowest]:.1e} "
    evidence += f"({lowest}), most {values[highest]:.1e} ({highest}); {usual}"
    still = ", ".join([n for n, v in values.items() if v < middle / 1000][:5])
    verdict, advice = "good", ""
    if middle > 3e-2 * scale:
        verdict, advice = "bad", "Steps are far too large: lower the learning rate about ten times."
    elif middle > 1e-2 * scale:
        verdict, advice = "warn", "Steps are large: fine in the first steps, later halve the learning rate."
    elif middle < 1e-5 * scale:
        verdict, advice = "warn", "The weights hardly change: raise the learning rate about ten times."
    elif still:
        verdict = "warn"
        advice = f"These layers hardly train compared with the others; is their gradient cut off? {still}"
    return Finding("update ratio", verdict, evidence, advice)


def read_dead(dead: Mapping[str, float]) -> Finding:
    """Judge the shares that `dead_units` returned."""
    if not dead:
        return Finding("dead units", "good", "this net has no activation that can die")
    worst = sorted(dead, key=dead.__getitem__, reverse=True)[:3]
    named = ", ".join(f"{name} {dead[name]:.0%}" for name in worst if dead[name] > 0)
    evidence = f"mean {np.mean(list(dead.values())):.1%} of channels never fire in {len(dead)} activations"
    evidence += f"; most: {named}" if named else ""
    share = dead[worst[0]]
    if share <= 0.4:
        return Finding("dead units", "good", evidence)
    advice = "Channels that never fire learn nothing: lower the learning rate or warm it up, or normalise before the "
    return Finding("dead units", "bad" if share > 0.9 else "warn", evidence, f"{advice}activation.")


_SURE = 3.1  # standard deviations: once in a thousand where mirroring changes nothing


def read_mirrored(plain: np.ndarray, mirrored: np.ndarray, *, trained: bool = False) -> Finding:
    """Judge whether a net is right less often about mirror images: McNemar's test on answers, bool (N,), right or not.

    `trained`: training pictures were mirrored. Then both are as good, whatever mirroring means.
    """
    lost, won = int((plain & ~mirrored).sum()), int((mirrored & ~plain).sum())
    evidence = f"of {len(plain):,} validation pictures {plain.mean():.1%} are right as they are, {mirrored.mean():.1%} "
    evidence += "mirrored"
    if lost - won - 1 > _SURE * np.sqrt(lost + won):
        advice = "Mirroring seems to change what a picture shows. If left and right matter: --set flip=none."
        return Finding("mirroring", "bad", evidence, advice)
    evidence += " (expected: training pictures were mirrored too)" if trained else ""
    return Finding("mirroring", "good", evidence)


# Name, fields of a recipe that turn it on (one is enough), and what to type when the net overfits ("": not proposed).
_REGULARISERS = (
    ("flips", ("flip",), "--set flip=random (if a mirrored picture keeps its class)"),
    ("translation or crops", ("translate", "crop", "resized_crop"), "--set translate=2"),
    ("weight decay", ("weight_decay", "l2"), "--set weight_decay=5e-4"),
    ("cutout", ("cutout",), "--set cutout=8"),
    ("mixup", ("mixup",), "--set mixup=0.2"),
    ("label smoothing", ("label_smoothing",), "--set label_smoothing=0.1"),
    ("cutmix", ("cutmix",), "--set cutmix=1"),
    ("colour", ("colour",), "--set colour=0.3"),
    ("dropout", ("dropout",), "--set dropout=0.2"),
    ("stochastic depth", ("stochastic_depth",), ""),
    ("L1", ("l1",), ""),
    ("EMA", ("ema",), ""),
)


_FEW_STEPS = 100  # a net that was shown fewer batches has hardly begun to learn
_FEW_PICTURES = 30  # of validation: the accuracy on fewer is uncertain by 15 points and more
_PRETRAINED = "start from pretrained weights (neocog train DATA --from NET)"


def read_curves(epochs: Sequence[Mapping[str, Any]], settings: Mapping[str, Any] | None = None) -> list[Finding]:
    """Read the epoch records of log.jsonl as an expert would, and return the findings.

    `settings` (nested dicts are searched) has the regularisers that are on. Names of the findings: "divergence",
    "overfitting", "over-confidence", "capacity", "length"; those that the records cannot answer are left out. After
    few steps only problems are named: nothing is called good, and a low accuracy is no fault of the net.
    """
    settings = settings or {}
    train_loss, val_loss = values_of(epochs, "train_loss"), values_of(epochs, "val_loss")
    if not epochs:
        return []
    if (settings.get("recipe") or {}).get("noisy"):
        val_loss = []  # on wrong labels it rises as the net gets surer of the right ones
    steps = epochs[-1].get("step")
    few = isinstance(steps, int) and steps < _FEW_STEPS
    longer = "train longer (neocog resume RUN --epochs N)" + (
        "" if settings.get("start") or settings.get("reader") else f", or {_PRETRAINED}"
    )
    divergence = _divergence(epochs, train_loss, val_loss, few)
    if divergence.verdict == "bad":
        return [divergence]
    train, val = values_of(epochs, "train_accuracy"), values_of(epochs, "val_accuracy")
    shown = epochs[-1].get("val_n")
    unsure = isinstance(shown, int) and shown < _FEW_PICTURES
    findings = [divergence] if len(train_loss) > 1 or divergence.verdict != "good" else []
    length: Finding | None
    if few:
        said = f"only {steps} steps were made"
        if len(train_loss) > 1:
            said += f", and the training loss went from {train_loss[0][1]:.3f} to {train_loss[-1][1]:.3f}"
        length = Finding("length", "warn", said, f"Too early to judge: {longer}.")
    else:
        length = _length(val_loss or train_loss, val, [lr for _, lr in values_of(epochs, "lr")], longer)
    if train and val:
        found = _overfitting(train[-1][1], val, settings, shown if unsure else None)
        findings += [found] if found else []
        if length and length.verdict == "good":
            capacity = _capacity(train[-1][1], val[-1][1], settings)
            findings += [capacity] if capacity else []
    if len(val_loss) > 2 and val:
        findings.append(_over_confidence(val_loss, dict(val), _settable(settings)))
    told = [finding for finding in findings if not (few and finding.verdict == "good")]
    return told + ([length] if length else [])


def judged(epochs: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[Finding]:
    """All that the epoch records of log.jsonl tell, by the settings of their run."""
    findings = read_curves(epochs, settings)
    ratios = [record["update_ratio"] for record in epochs if record.get("update_ratio")]
    if ratios:  # of the middle: at the end the learning rate is 0
        optimizer = str((settings.get("recipe") or {}).get("optimizer") or "sgd")
        findings.append(read_update_ratios(ratios[len(ratios) // 2], optimizer))
    if dead := [record["dead"] for record in epochs if record.get("dead")]:
        findings.append(read_dead(dead[-1]))
    return findings


def values_of(epochs: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return the finite (epoch, value) pairs."""
    found: Any = ((record.get("epoch"), number, record.get(key)) for number, record in enumerate(epochs, 1))
    return [(float(at if _finite(at) else number), float(v)) for at, number, v in found if _finite(v)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _risen(losses: list[tuple[float, float]]) -> bool:
    """Whether the last loss is clearly above the lowest; 0.2: at losses near zero a rise of half is only noise."""
    values = [value for _, value in losses]
    return values[-1] > 1.5 * min(values) and values[-1] - min(values) > 0.2


def _divergence(
    epochs: Sequence[Mapping[str, Any]], losses: list[tuple[float, float]], val: list[tuple[float, float]], few: bool
) -> Finding:
    last = epochs[-1].get("train_loss")
    advice = "Lower the learning rate (neocog train --find-lr proposes one), warm it up, or clip gradients."
    if isinstance(last, int | float) and not math.isfinite(last):
        said = f"training loss became {last} at epoch {epochs[-1].get('epoch', '?')}"
        return Finding("divergence", "bad", said, advice)
    if not losses:
        return Finding("divergence", "warn", "no training loss was recorded", "")
    values = [value for _, value in losses]
    lowest, of = min(values), counted(len(values), "epoch")
    evidence = f"training loss {values[0]:.3f} to {values[-1]:.3f} in {of}, lowest {lowest:.3f}"
    if _risen(losses) and (not val or _risen(val)):  # of training alone: few, mixed batches make it jump
        return Finding("divergence", "bad", evidence, advice)
    if len(values) > 2 and values[0] - values[-1] < 0.02 * values[0] and not few:
        advice = "Nothing was learned. Is the learning rate far too small or too large? See 'overfit one batch'."
        return Finding("divergence", "bad", evidence, advice)
    return Finding("divergence", "good", evidence)


def _overfitting(
    train: float, val: list[tuple[float, float]], settings: Mapping[str, Any], pictures: int | None
) -> Finding | None:
    """`pictures`: of validation, where they are too few to be sure; then a small gap says nothing."""
    on, off = _regularisers(settings)
    gap = train - val[-1][1]
    best_at, best = max(val, key=lambda pair: pair[1])
    evidence = f"training accuracy {train:.1%}, validation {val[-1][1]:.1%}: "
    evidence += f"a gap of {100 * gap:.1f} points" if gap > 0 else "no gap"
    if best - val[-1][1] > 0.01:
        evidence += f"; validation was best at epoch {best_at:g} ({best:.1%})"
    evidence += f"; regularisers on: {', '.join(on) if on else 'none recorded'}"
    if {"mixup", "cutmix"} & set(on):
        evidence += " (mixed pictures lower the training accuracy, so the real gap is larger)"
    if pictures is not None:
        evidence += f"; only {pictures} validation pictures, so the gap is uncertain"
    if gap <= 0.05:
        return Finding("overfitting", "good", evidence) if pictures is None else None
    proposals = ", ".join(off[:3])
    advice = f"Add regularisers: {proposals}; or " if proposals else "Strengthen the regularisers, use a smaller net, "
    advice += "collect more pictures."
    if best - val[-1][1] > 0.01:
        advice += " Early stopping (--set early_stop=5) ends the training soon after its best epoch and keeps its "
        advice += "weights."
    return Finding("overfitting", "bad" if gap > 0.15 else "warn", evidence, advice)


def _capacity(train: float, val: float, settings: Mapping[str, Any]) -> Finding | None:
    """Judge whether the net is large enough, where longer training would not help."""
    if train - val > 0.05:
        return None  # overfitting: capacity is not what is missing
    evidence = f"training accuracy {train:.1%}, validation {val:.1%}"
    if train >= 0.9 or val >= 0.9:
        return Finding("capacity", "good", evidence)
    on, _ = _regularisers(settings)
    evidence += ": no gap, and both low"
    advice, larger = "A wider or deeper net", ""
    if not settings.get("reader"):
        advice = "" if settings.get("start") else f"{_PRETRAINED[0].upper()}{_PRETRAINED[1:]}. "
        advice, larger = f"{advice}A wider or deeper net", ", larger pictures"
    advice += f"{larger}, or better labels"
    advice += f"; or weaken the regularisers: {', '.join(on)}." if on else "."
    return Finding("capacity", "warn", evidence, advice)


def _over_confidence(
    losses: list[tuple[float, float]], accuracy: Mapping[float, float], may: Collection[str]
) -> Finding:
    """`may`: the fields of `_REGULARISERS` that can be set."""
    lowest_at, lowest = min(losses, key=lambda pair: pair[1])
    last_at, last = losses[-1]
    evidence = f"validation loss {last:.3f} at the end, lowest {lowest:.3f} at epoch {lowest_at:g}"
    then, now = accuracy.get(lowest_at), accuracy.get(last_at)
    if last > 1.05 * lowest and then is not None and now is not None:
        evidence += f", while accuracy went from {then:.1%} to {now:.1%}"
        if now >= then:
            advice = "The net becomes more confident in its errors. The temperature corrects the probabilities; "
            advice += "to prevent it: --set label_smoothing=0.1"
            advice += " or --set mixup=0.2." if "mixup" in may else "."
            return Finding("over-confidence", "warn", evidence, advice)
    return Finding("over-confidence", "good", evidence)


def _length(
    losses: list[tuple[float, float]], accuracy: list[tuple[float, float]], lrs: list[float], longer: str
) -> Finding | None:
    """Judge whether the loss was still falling in the last fifth of the epochs; 5 are needed to say that it was not."""
    if len(losses) < 2:
        return None
    at, before = losses[-1 - max(1, len(losses) // 5)]
    fall = (before - losses[-1][1]) / before if before > 0 else 0.0
    annealed = bool(lrs) and lrs[-1] < 0.2 * max(lrs)
    evidence = f"loss fell by {fall:.1%} from epoch {at:g} to the last"
    evidence = evidence if fall > 0 else f"loss stopped falling at epoch {at:g}"
    gain = accuracy[-1][1] - dict(accuracy).get(at, 0.0) if accuracy else 1.0
    if accuracy and fall > 0:
        evidence += f", and accuracy changed by {100 * gain:+.1f} points"
    # As the rate goes to zero a last fall comes with it, even in a training that is long enough.
    if fall <= (0.1 if annealed else 0.05) or gain < 0.005:
        return Finding("length", "good", evidence) if len(losses) >= 5 else None
    advice = f"A longer schedule should gain: {longer}." if annealed else f"Still falling: {longer}."
    return Finding("length", "warn", evidence, advice)


def _regularisers(settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the regularisers that are on, and proposals for the others."""
    values, may = list(_leaves(settings)), _settable(settings)
    on, off = list[str](), list[str]()
    for name, fields, proposal in _REGULARISERS:
        if any(key in fields and _is_on(value) for key, value in values):
            on.append(name)
        elif proposal and fields[0] in may and not (name == "flips" and settings.get("mirror") is False):
            off.append(proposal)
    return on, off


def _settable(settings: Mapping[str, Any]) -> set[str]:
    """The fields of `_REGULARISERS`; where there are no pictures, but for those that change them and the net's own."""
    gone: set[str] = set()
    if read := settings.get("reader"):
        from neocog.data.reader import find
        from neocog.nets import names, options

        net = settings.get("net")
        name = net.get("name") if isinstance(net, Mapping) else net
        own = options(name) if name in names() else {}
        gone = {*still(find(read["kind"]).mixes), *(key for key, value in own.items() if _is_on(value))}
    return {field for _, fields, _ in _REGULARISERS for field in fields if field not in gone}


def _leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(key).lower(), value


def _is_on(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() not in ("", "none", "off", "no", "false", "0")
    return value > 0 if isinstance(value, int | float) else bool(value)  # dropout is -1 when the recipe leaves it be

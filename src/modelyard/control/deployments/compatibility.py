"""Does a version keep what callers of an endpoint rely on? Pure: manifests in, broken promises out.

A promise is what the version that callers follow says of itself: what it takes must be taken, and what it answers must
be answered alike. What was only *seen* in data (clips, typical values, drift bins, an example) promises nothing.
"""

import math

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.features import Column, Contract
from modelyard.contract.signature import Signature, TensorSpec

SANE = 10.0  # an end this many times as far out as what a version learned from is no rule, only a guard ...
ROOM = 2.0  # ... and may move, as long as it stays this many times as far out


def broken_promises(promised: Manifest, offered: Manifest) -> list[str]:
    """What callers who follow `promised` would meet at `offered`, a sentence each; empty if nothing breaks."""
    return broken_inputs(promised, offered) + broken_answers(promised, offered)


def broken_inputs(promised: Manifest, offered: Manifest) -> list[str]:
    """The calls that `promised` takes and `offered` would refuse."""
    if promised.signature.layout == "tensors" or offered.signature.layout == "tensors":
        if promised.signature.layout != offered.signature.layout:
            return [f"it takes {_taken(offered.signature)}, not {_taken(promised.signature)}"]
        return _broken_tensors(promised.signature, offered.signature)
    broken = _broken_columns(promised.contract, offered.contract)
    if promised.signature.layout != offered.signature.layout:
        broken.append(f"over V2 it takes {_taken(offered.signature)}, not {_taken(promised.signature)}")
    return broken


def broken_answers(promised: Manifest, offered: Manifest) -> list[str]:
    """What `promised` answers and `offered` would not, or would mean otherwise."""
    broken = []
    if promised.task != offered.task:
        broken.append(f"its task is {offered.task}, not {promised.task}")
    given = {output.name: output for output in offered.signature.outputs}
    for output in promised.signature.outputs:
        if (found := given.get(output.name)) is None:
            broken.append(f"it gives no output {output.name!r}")
        elif found != output:
            broken.append(f"output {output.name!r} is {_shown(found)}, not {_shown(output)}")
    return broken + _broken_target(promised, offered) + _broken_decision(promised, offered)


# --- columns ----------------------------------------------------------------------------------------------------


def _broken_columns(promised: Contract, offered: Contract) -> list[str]:
    theirs = {column.name: column for column in offered.columns}
    ours = {column.name: column for column in promised.columns}
    broken = [f"column {name!r} is not known to it" for name in ours if name not in theirs]
    for name, column in theirs.items():
        if column.role != "feature":
            continue  # accepted whatever it is
        if name not in ours:
            broken += [f"it requires column {name!r}"] if column.default is None else []
        elif ours[name].role == "feature":
            broken += _difference(ours[name], column)
        else:
            broken.append(f"it reads column {name!r}, in which callers may send anything or nothing")
    return broken


def _difference(ours: Column, theirs: Column) -> list[str]:
    name = f"column {ours.name!r}"
    if ours.kind != theirs.kind and (ours.kind, theirs.kind) != ("integer", "number"):
        return [f"{name} is {theirs.kind}, not {ours.kind}"]
    found = []
    if ours.default is not None and theirs.default is None:
        found.append(f"it requires {name}, which callers may leave out")
    if ours.nullable and not theirs.nullable:
        found.append(f"{name} must not be missing")
    return found + (_lost_categories(ours, theirs) if ours.kind == "category" else _narrowed_range(ours, theirs))


def _lost_categories(ours: Column, theirs: Column) -> list[str]:
    if theirs.unseen == "missing":
        return []  # an unlisted category is answered as a missing value
    lost = [category for category in ours.categories if category not in theirs.categories]
    found = []
    if lost:
        shown = ", ".join(repr(category) for category in lost[:5]) + (", …" if len(lost) > 5 else "")
        found.append(f"column {ours.name!r} refuses {shown}")
    if ours.unseen == "missing":
        found.append(f"column {ours.name!r} refuses categories that it does not list")
    return found


def _narrowed_range(ours: Column, theirs: Column) -> list[str]:
    found = []
    for end, word, sign in (("minimum", "below", -1.0), ("maximum", "above", 1.0)):
        now, then = getattr(ours, end), getattr(theirs, end)
        if then is not None and _is_narrower(ours, now, then, sign):
            was = "took any" if now is None else f"took them to {now:.12g}"
            found.append(f"column {ours.name!r} refuses values {word} {then:.12g} (callers' version {was})")
    return found


def _is_narrower(ours: Column, now: float | None, then: float, sign: float) -> bool:
    """Whether `then` refuses what `now` takes, beyond what the guards of two samples differ by."""
    was = math.inf if now is None else sign * now
    if sign * then >= was:
        return False
    if ours.clip is None:
        return True
    reach = max(1.0, *(abs(value) for value in ours.clip))  # how far out the callers' version has learned
    return not (was >= SANE * reach and sign * then >= ROOM * reach)


# --- tensors and answers ----------------------------------------------------------------------------------------


def _broken_tensors(promised: Signature, offered: Signature) -> list[str]:
    ours, theirs = ({spec.name: spec for spec in side.inputs} for side in (promised, offered))
    broken = [f"it takes no input {name!r}" for name in ours if name not in theirs]
    broken += [f"it requires input {name!r}" for name in theirs if name not in ours]
    for name, spec in ours.items():
        found = theirs.get(name, spec)
        if found.datatype != spec.datatype or not _takes(found.shape, spec.shape):
            broken.append(f"input {name!r} is {_shown(found)}, not {_shown(spec)}")
    return broken


def _takes(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    """Whether every tensor of the shape `narrow` has the shape `wide` too; -1 is any length."""
    return len(wide) == len(narrow) and all(free in (-1, size) for free, size in zip(wide, narrow, strict=True))


def _broken_target(promised: Manifest, offered: Manifest) -> list[str]:
    ours, theirs = promised.contract.target, offered.contract.target
    if ours is None or theirs is None:
        return []
    broken = []
    if ours.positive != theirs.positive:
        broken.append(f"its probability is that of {theirs.positive!r}, not of {ours.positive!r}")
    if lost := [name for name in ours.classes if name not in theirs.classes]:
        broken.append(f"feedback of class {', '.join(map(repr, lost[:5]))} is refused")
    return broken


def _broken_decision(promised: Manifest, offered: Manifest) -> list[str]:
    ours, theirs = promised.decision, offered.decision
    if ours is None:
        return ["it answers with a decision, where callers get its outputs by name"] if theirs else []
    if theirs is None:
        return ["it has no decision, which callers get"]
    broken = []
    if (ours.positive, ours.negative) != (theirs.positive, theirs.negative):
        said = f"{theirs.positive!r} or {theirs.negative!r}, not {ours.positive!r} or {ours.negative!r}"
        broken.append(f"it decides {said}")
    if ours.scale != theirs.scale:
        broken.append("its score has another scale")
    return broken


def _taken(signature: Signature) -> str:
    words = {"columns": "a tensor for each column", "matrix": "one matrix", "tensors": "tensors as they are"}
    return words[signature.layout]


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype}{list(spec.shape)}"

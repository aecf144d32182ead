"""May two versions share an endpoint's calls? Pure: contracts in, broken promises out."""

from modelyard.contract.features import Column, Contract


def broken_promises(promised: Contract, offered: Contract) -> list[str]:
    """What callers who follow `promised` would meet at a version with `offered`; empty if it takes their calls.

    Compared are columns and kinds. Ranges and categories are each version's own: they come from its data, and a value
    outside of them is answered as invalid, by name.
    """
    theirs = {column.name: column for column in offered.columns}
    ours = {column.name: column for column in promised.columns}
    broken = [f"column {name!r} is not known to it" for name in ours if name not in theirs]
    for name, column in theirs.items():
        if column.role != "feature":
            continue
        if name not in ours:
            if column.default is None:
                broken.append(f"it requires column {name!r}")
        elif ours[name].role == "feature":
            broken += _difference(ours[name], column)
        elif column.default is None:
            broken.append(f"it requires column {name!r}, which callers may leave out")
    return broken


def _difference(ours: Column, theirs: Column) -> list[str]:
    found = []
    if ours.kind != theirs.kind and not (ours.kind == "integer" and theirs.kind == "number"):
        found.append(f"column {ours.name!r} is {theirs.kind} there and {ours.kind} here")
    if ours.nullable and not theirs.nullable and theirs.unseen != "missing":
        found.append(f"column {ours.name!r} must not be missing there")
    if ours.default is not None and theirs.default is None:
        found.append(f"it requires column {ours.name!r}, which callers may leave out")
    return found

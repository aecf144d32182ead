"""The model card: what a version is for, what it learned from, how good it is, and where it ends."""

from __future__ import annotations

from typing import Any

from modelyard.artifacts.manifest import Manifest
from modelyard.data.quality import QualityReport


def model_card(manifest: Manifest, quality: QualityReport, report: dict[str, Any], about: str = "") -> str:
    """The card as Markdown."""
    sections = [
        f"# {manifest.model}",
        _purpose(manifest, about),
        _data(manifest, quality, report),
        _measures(manifest, report),
        _columns(manifest, report),
        _groups(report),
        _limits(manifest, report),
        _again(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _purpose(manifest: Manifest, about: str) -> str:
    decision, target = manifest.decision, manifest.contract.target
    if decision is None or target is None:
        return f"## Purpose\n\n{about}"
    lines = [
        "## Purpose\n",
        about or f"Tells `{target.positive}` from `{target.classes[0]}` in column `{target.name}`.",
        "",
        f"It answers the {decision.meaning}. At {decision.cutoff} and above it says **{decision.positive}**, below it "
        f"**{decision.negative}**. Points: {decision.scale.points:g} at odds of {decision.scale.odds:g} to 1, and "
        f"{decision.scale.double:g} more double the odds. The cut-off is where the classes part best (largest KS) on "
        "out-of-fold predictions, unless the recipe states one; it knows nothing of what a wrong decision costs.",
    ]
    return "\n".join(lines)


def _data(manifest: Manifest, quality: QualityReport, report: dict[str, Any]) -> str:
    lineage = manifest.lineage
    classes = ", ".join(f"`{name}` {rows}" for name, rows in quality.classes.items())
    lines = [
        "## Data\n",
        f"- Table: {lineage.source or 'given in memory'}; SHA-256 `{lineage.data_digest or 'not recorded'}`",
        f"- {quality.rows} rows ({quality.duplicate_rows} duplicates, {quality.target_missing} without an outcome): "
        + classes,
        f"- {report['target_note']}",
    ]
    if left := [c for c in manifest.contract.columns if c.role != "feature"]:
        lines.append("- Left out: " + "; ".join(f"`{c.name}` ({c.note})" for c in left))
    lines += [f"- `{c.name}`: {c.note}" for c in manifest.contract.features if c.note]
    return "\n".join(lines)


def _measures(manifest: Manifest, report: dict[str, Any]) -> str:
    m = manifest.metrics
    lines = [
        "## Measures\n",
        f"On {m['test_rows']:.0f} rows that training never saw ({m['train_rows']:.0f} were learned from):\n",
        "| measure | value |",
        "|---|---|",
        f"| AUC | {m['auc']:.4f} (95 % bootstrap interval {m['auc_low']:.4f} to {m['auc_high']:.4f}) |",
        f"| KS | {m['ks']:.4f} |",
        f"| Gini | {m['gini']:.4f} |",
        f"| log-loss | {m['log_loss']:.4f} |",
        f"| Brier | {m['brier']:.4f} |",
        f"| calibration error | {m['ece']:.4f} |",
        "",
        "Candidates, out of fold on the training rows:\n",
        "| candidate | AUC | KS | log-loss | Brier |",
        "|---|---|---|---|---|",
    ]
    for name, found in report["candidates"].items():
        shown = f"**{name}**" if name == report["chosen"] else name
        lines.append(
            f"| {shown} | {found['auc']:.4f} | {found['ks']:.4f} | {found['log_loss']:.4f} | {found['brier']:.4f} |"
        )
    lines.append(f"\nRule of choice: {report['rule']}.")
    return "\n".join(lines)


def _columns(manifest: Manifest, report: dict[str, Any]) -> str:
    lines = ["## What moves the answer\n", "| column | mean absolute log-odds | share |", "|---|---|---|"]
    lines += [
        f"| {entry['column']} | {entry['log_odds']:.4f} | {100 * entry['share']:.1f} % |"
        for entry in report["importance"]
    ]
    return "\n".join(lines)


def _groups(report: dict[str, Any]) -> str:
    if not report["groups"]:
        return ""
    lines = [
        "## Groups\n",
        "Sensitive columns are not learned from unless declared. What the model does to their groups on the test rows "
        "(groups of fewer than 30 rows are not shown; no interval is given, so read small groups with care):\n",
        "| column | group | rows | observed rate | selected (at or above the cut-off) | AUC |",
        "|---|---|---|---|---|---|",
    ]
    for column, groups in report["groups"].items():
        for group, found in groups.items():
            area = "-" if found["auc"] is None else f"{found['auc']:.3f}"
            lines.append(
                f"| {column} | {group} | {found['rows']} | {found['observed_rate']:.3f} "
                f"| {found['selection_rate']:.3f} | {area} |"
            )
    return "\n".join(lines)


def _limits(manifest: Manifest, report: dict[str, Any]) -> str:
    lines = [
        "## Limits\n",
        "- It knows only what the table shows: other people, other times and other rules of selection need a new look.",
        "- Contributions say what moved the model, not what would change the outcome in the world.",
        "- Age and marital status are protected in some jurisdictions: such columns are named above, and whether a use "
        "may rely on them is for people to decide.",
        "- Values are drawn to the clips of the contract before the model sees them, so it does not extrapolate.",
    ]
    if suspicious := [c.name for c in manifest.contract.features if "opinion" in c.note]:
        lines.append(f"- {', '.join(suspicious)}: likely an earlier decision's result; the model partly repeats it.")
    return "\n".join(lines)


def _again(manifest: Manifest) -> str:
    parity = manifest.parity
    packages = ", ".join(f"{name} {version}" for name, version in manifest.lineage.packages.items())
    proof = (
        f"Parity: {parity.rows} rows, {parity.edge_rows} of them edge rows, largest difference {parity.max_error:.2g} "
        f"(allowed {parity.tolerance:.0e})."
        if parity
        else ""
    )
    return (
        f"## Again\n\nThe same table, recipe (in the manifest) and seed {manifest.lineage.seed} give the same model. "
        f"Made with {packages}. {proof}"
    )

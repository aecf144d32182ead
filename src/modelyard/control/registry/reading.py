"""What the registry shows: models and versions by tag, and one version whole, from its row and its artifact."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.control.registry.comparison import Comparison, compare
from modelyard.control.registry.models import Alias, Model, Tag, Version
from modelyard.control.registry.observed import observed
from modelyard.control.registry.services import find_model, find_version
from modelyard.control.setup import active_home

CARD = "card.md"
_SHOWN = (
    "status",
    "framework",
    "trusted",
    "size_bytes",
    "digest",
    "metrics",
    "parity",
    "lineage",
    "data_digest",
    "code_revision",
    "note",
    "created_by",
)


def tag_pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
    """`key=value` texts as pairs. Raises InvalidInput."""
    pairs = [text.partition("=") for text in texts]
    if any(not (key and separator and value) for key, separator, value in pairs):
        raise InvalidInput("a tag to look for is written key=value")
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def models_shown(tags: Iterable[tuple[str, str]] = ()) -> QuerySet[Model]:
    """Models that bear all of `tags`, with what a list of them shows; so many queries, however many models."""
    found = Model.objects.all()
    for key, value in tags:
        found = found.filter(Exists(Tag.objects.filter(model=OuterRef("pk"), version=None, key=key, value=value)))
    return found.prefetch_related(
        Prefetch("versions", Version.objects.only("model_id", "number").order_by("-number")),
        Prefetch("aliases", Alias.objects.select_related("version").only("name", "model_id", "version__number")),
        Prefetch("tags", Tag.objects.filter(version=None)),
    )


def versions_shown(tags: Iterable[tuple[str, str]] = (), *, also_of_models: bool = False) -> QuerySet[Version]:
    """Versions that bear all of `tags` (or whose model does), with what a list shows; a fixed number of queries."""
    found = Version.objects.all()
    for key, value in tags:
        own = Exists(Tag.objects.filter(version=OuterRef("pk"), key=key, value=value))
        models = Exists(Tag.objects.filter(model=OuterRef("model"), version=None, key=key, value=value))
        found = found.filter(Q(own) | Q(models) if also_of_models else own)
    return found.select_related("model").prefetch_related("aliases", "tags")


def catalogue(
    name: str | None = None, tags: Iterable[tuple[str, str]] = (), limit: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Models by name, each with its versions, newest first, and how many versions of all were left out.

    At most `limit` versions; at most six queries, however many there are. Raises NotFound for an unknown name.
    """
    found = versions_shown(tags, also_of_models=True).prefetch_related(None)
    if name is not None:
        found = found.filter(model=find_model(name))
    rows = found if limit is None else found[:limit]
    of_versions = _gathered(Tag.objects.filter(version__in=rows.values("pk")), "version_id", "key", "value")
    models = rows.values("model")
    of_models = _gathered(Tag.objects.filter(version=None, model__in=models), "model_id", "key", "value")
    aliases = _gathered(Alias.objects.filter(model__in=models), "model_id", "name", "version__number")
    shown: dict[int, dict[str, Any]] = {}
    for version in rows:
        if version.model_id not in shown:
            shown[version.model_id] = {
                "model": version.model.name,
                "description": version.model.description,
                "aliases": aliases.get(version.model_id, {}),
                "tags": of_models.get(version.model_id, {}),
                "versions": [],
            }
        pointing = shown[version.model_id]["aliases"].items()
        row = {
            "number": version.number,
            "aliases": sorted(alias for alias, number in pointing if number == version.number),
            "tags": of_versions.get(version.pk, {}),
            **{field: getattr(version, field) for field in _SHOWN},
            "created_at": version.created_at.isoformat(timespec="seconds"),
        }
        shown[version.model_id]["versions"].append(row)
    count = sum(len(one["versions"]) for one in shown.values())
    return list(shown.values()), found.count() - count if count == limit else 0


def tags_of(row: Model | Version) -> dict[str, str]:
    """The tags of a row whose tags were fetched: a model's own, or a version's."""
    return {tag.key: tag.value for tag in row.tags.all() if isinstance(row, Version) or tag.version_id is None}


def artifact_of(version: Version) -> tuple[Artifact | None, str]:
    """The artifact of a version by its verified manifest, or None and what is wrong with it."""
    try:
        return Shelf(active_home().shelf).describe(version.digest), ""
    except (NotFound, InvalidInput) as error:
        return None, str(error)
    except msgspec.MsgspecError:
        return None, f"artifact {version.digest[:12]}: its manifest was written by a version that this one cannot read"


def card_of(artifact: Artifact) -> str | None:
    """The model card, verified; None if the artifact holds none, or not as it was stored."""
    entry = artifact.manifest.files.get(CARD)
    if entry is None:
        return None
    try:
        data = artifact.read(CARD)
    except FileNotFoundError:
        return None
    return data.decode("utf-8", "replace") if hashlib.sha256(data).hexdigest() == entry.sha256 else None


def from_artifact(version: Version) -> dict[str, Any]:
    """What only the artifact knows of a version: `manifest`, `card`, and `problem` where it cannot be read."""
    artifact, problem = artifact_of(version)
    return {
        "manifest": msgspec.to_builtins(artifact.manifest) if artifact else None,
        "card": card_of(artifact) if artifact else None,
        "problem": problem,
    }


def compared(model_name: str, a: int | str, b: int | str) -> Comparison:
    """Two versions of a model side by side. Raises NotFound, or InvalidInput for an artifact that is not whole."""
    first, second = find_version(model_name, a), find_version(model_name, b)
    home = active_home()
    shelf = Shelf(home.shelf)
    endpoints = first.model.endpoints.values_list("name", flat=True)
    seen = {number: msgspec.to_builtins(one) for number, one in observed(home.run / "counters", endpoints).items()}
    sides = [(row.number, row.digest, shelf.describe(row.digest).manifest) for row in (first, second)]
    return compare(first.model.name, sides[0], sides[1], seen)


def _gathered(rows: QuerySet, owner: str, key: str, value: str) -> dict[int, dict[str, Any]]:
    """Keys and values by whose they are, in order of the keys."""
    found: dict[int, dict[str, Any]] = {}
    for whose, name, content in rows.order_by(key).values_list(owner, key, value):
        found.setdefault(whose, {})[name] = content
    return found

"""Tags and descriptions: bounded, logged, and what a list is narrowed by; a version's artifact never changes."""

import pytest

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home


def test_tags_of_a_model_and_of_a_version_are_apart(home: Home, register) -> None:
    from modelyard.control.registry.services import set_tags

    register(1)
    register(2)
    assert set_tags("scores", {"team": "risk", "stage": "live"}, "li") == {"stage": "live", "team": "risk"}
    assert set_tags("scores", {"stage": "trial"}, "li", 2) == {"stage": "trial"}
    assert set_tags("scores", {"stage": None, "tier": "1"}, "li") == {"team": "risk", "tier": "1"}
    assert set_tags("scores", {}, "li", 1) == {}


def test_the_log_says_what_was_tagged_and_nothing_where_nothing_changed(home: Home, register) -> None:
    from modelyard.control.registry.models import Event
    from modelyard.control.registry.services import set_tags

    register(1)
    set_tags("scores", {"team": "risk"}, "li", 1)
    newest = Event.objects.first()
    assert (newest.by, newest.verb, newest.version) == ("li", "tag", 1)
    assert newest.details == {"set": {"team": "risk"}, "removed": []}
    before = Event.objects.count()
    set_tags("scores", {"team": "risk"}, "li", 1)
    assert Event.objects.count() == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"two words": "x"}, InvalidInput),
        ({"": "x"}, InvalidInput),
        ({"team": ""}, InvalidInput),
        ({"team": "  "}, InvalidInput),
        ({"team": "a\nb"}, InvalidInput),
        ({"team": "x" * 201}, InvalidInput),
        ({f"k{number}": "x" for number in range(51)}, InvalidInput),
        ({"absent": None}, NotFound),
        ({"good": "x", "absent": None}, NotFound),
    ],
)
def test_what_is_no_tag_is_refused_and_nothing_is_changed(home: Home, register, changes, error) -> None:
    from modelyard.control.registry.models import Tag
    from modelyard.control.registry.services import set_tags

    register(1)
    with pytest.raises(error):
        set_tags("scores", changes, "li")
    assert not Tag.objects.exists()


def test_fifty_tags_are_the_most(home: Home, register) -> None:
    from modelyard.control.registry.services import MAX_TAGS, set_tags

    register(1)
    assert len(set_tags("scores", {f"k{number}": "x" for number in range(MAX_TAGS)}, "li")) == MAX_TAGS
    assert len(set_tags("scores", {"k0": None, "another": "x"}, "li")) == MAX_TAGS
    with pytest.raises(InvalidInput, match="50"):
        set_tags("scores", {"one-more": "x"}, "li")


def test_a_description_replaces_the_one_before_and_both_are_in_the_log(home: Home, register) -> None:
    from modelyard.control.registry.models import Event, Version
    from modelyard.control.registry.services import MAX_TEXT_CHARACTERS, describe, find_model

    register(1)
    describe("scores", "who pays back", "li")
    describe("scores", "  who defaults\n", "wu")
    describe("scores", "too optimistic in the north", "wu", 1)
    assert find_model("scores").description == "who defaults"
    assert Version.objects.get().note == "too optimistic in the north"
    told = Event.objects.filter(verb="describe").order_by("pk").values_list("by", "version", "details__text")
    assert list(told) == [
        ("li", None, "who pays back"),
        ("wu", None, "who defaults"),
        ("wu", 1, "too optimistic in the north"),
    ]
    with pytest.raises(InvalidInput, match=f"{MAX_TEXT_CHARACTERS}"):
        describe("scores", "x" * (MAX_TEXT_CHARACTERS + 1), "li")


def test_lists_are_narrowed_by_tags(home: Home, register) -> None:
    from modelyard.control.registry.reading import catalogue, models_shown, tag_pairs, versions_shown
    from modelyard.control.registry.services import set_tags

    for seed, name in ((1, "scores"), (2, "scores"), (3, "fraud")):
        register(seed, name)
    set_tags("scores", {"team": "risk"}, "li")
    set_tags("fraud", {"team": "risk", "tier": "1"}, "li")
    set_tags("scores", {"tier": "1"}, "li", 2)

    def models(*texts: str) -> list[str]:
        return [model.name for model in models_shown(tag_pairs(texts))]

    assert models("team=risk") == ["fraud", "scores"]
    assert models("team=risk", "tier=1") == ["fraud"]
    assert models("team=other") == []
    assert [version.number for version in versions_shown(tag_pairs(["tier=1"]))] == [2]
    found, left_out = catalogue(tags=tag_pairs(["team=risk", "tier=1"]))
    assert [(one["model"], [row["number"] for row in one["versions"]]) for one in found] == [
        ("fraud", [1]),
        ("scores", [2]),
    ]
    assert left_out == 0
    for text in ("team", "=risk", "team="):
        with pytest.raises(InvalidInput, match="key=value"):
            tag_pairs([text])


def test_a_version_is_immutable_whoever_asks(home: Home, register) -> None:
    from django.db import DatabaseError, transaction

    from modelyard.control.registry.models import Version

    register(1)
    for field, value in (("digest", "0" * 64), ("number", 7), ("framework", "xgboost"), ("created_by", "nobody")):
        with pytest.raises(DatabaseError, match="immutable"), transaction.atomic():
            Version.objects.update(**{field: value})
    Version.objects.update(note="may change", status="failed")
    row = Version.objects.get()
    row.save()  # all columns, none of them changed
    assert (row.note, row.number) == ("may change", 1)


def test_a_row_knows_what_is_searched_for(home: Home, register) -> None:
    from modelyard.artifacts.store import Shelf
    from modelyard.control.registry.models import Version

    register(1)
    row = Version.objects.get()
    manifest = Shelf(home.shelf).describe(row.digest).manifest
    assert row.size_bytes == sum(entry.size for entry in manifest.files.values()) == len(b"graph 1")
    assert row.trusted is False
    assert row.code_revision == manifest.lineage.code_revision
    assert manifest.lineage.packages["modelyard"]

"""The registry: numbers that count, names that move, a history that stays, and names.json for everybody else."""

import threading

import pytest

from modelyard.artifacts.names import read_names, resolve
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home


def test_the_same_artifact_is_the_same_version(home: Home, register) -> None:
    from modelyard.control.registry.models import Version

    assert [register(1), register(1), register(2), register(1)] == [1, 1, 2, 1]
    assert Version.objects.count() == 2


def test_the_first_version_is_the_champion_until_somebody_decides(home: Home, register) -> None:
    from modelyard.control.registry.services import find_version, set_alias

    register(1)
    register(2)
    assert find_version("scores").number == 1
    set_alias("scores", "champion", 2, by="test")
    assert find_version("scores").number == 2
    assert find_version("scores", "1").number == 1


def test_numbers_are_given_once_to_many_at_a_time(home: Home, register) -> None:
    from django.db import connections

    numbers: list[int] = []

    def several(first: int) -> None:
        numbers.extend(register(seed) for seed in range(first, first + 4))
        connections.close_all()

    threads = [threading.Thread(target=several, args=(first,)) for first in (10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 13))
    listed = read_names(home)
    assert listed is not None
    assert {f"scores:{number}" for number in numbers} < set(listed.names)


def test_names_follow_the_aliases(home: Home, register) -> None:
    from modelyard.control.registry.services import find_version, remove_alias, set_alias

    register(1)
    register(2)
    set_alias("scores", "champion", 2, by="test")
    assert resolve(home, "scores") == resolve(home, "scores:2") == find_version("scores", 2).digest
    set_alias("scores", "old", 1, by="test")
    assert resolve(home, "scores:old") == find_version("scores", 1).digest
    remove_alias("scores", "old", by="test")
    with pytest.raises(NotFound, match="scores:old"):
        resolve(home, "scores:old")
    assert home.names.stat().st_mode & 0o777 == 0o600


def test_names_that_somebody_else_wrote_are_refused(home: Home, register) -> None:
    register(1)
    digest = resolve(home, "scores:1")
    home.names.write_bytes(home.names.read_bytes().replace(digest.encode(), b"0" * 64))
    with pytest.raises(InvalidInput, match="not signed"):
        resolve(home, "scores:1")
    home.names.write_bytes(b"{")
    with pytest.raises(InvalidInput, match="cannot be read"):
        resolve(home, "scores:1")
    register(2)  # control writes the list anew
    assert resolve(home, "scores:1") == digest


def test_a_home_without_names_knows_no_name(home: Home) -> None:
    with pytest.raises(NotFound, match="models list"):
        resolve(home, "scores")


def test_the_history_says_who_moved_what(home: Home, register) -> None:
    from modelyard.control.registry.models import Event
    from modelyard.control.registry.services import set_alias

    register(1)
    register(2)
    set_alias("scores", "champion", 2, by="li")
    newest = Event.objects.first()
    assert (newest.by, newest.verb, newest.version) == ("li", "set_alias", 2)
    assert newest.details == {"alias": "champion", "before": 1}


@pytest.mark.parametrize("alias", ["7", "", "two words", "-x"])
def test_an_alias_is_a_name(home: Home, register, alias: str) -> None:
    from modelyard.control.registry.services import set_alias

    register(1)
    with pytest.raises(InvalidInput):
        set_alias("scores", alias, 1, by="test")

"""The signed list of names on the shelf, written anew from the rows after each change."""

from django.db import transaction

from modelyard.artifacts.names import publish_names, read_names
from modelyard.contract.errors import Conflict, InvalidInput
from modelyard.control.locks import exclusive
from modelyard.control.registry.models import Alias, Version
from modelyard.control.setup import active_home
from modelyard.secure.signing import signer


def names_of_rows() -> dict[str, str]:
    """Every `model:version` and `model:alias` in the database, each with its digest."""
    ready = Version.objects.filter(status=Version.Status.READY)
    names = {
        f"{model}:{number}": digest for model, number, digest in ready.values_list("model__name", "number", "digest")
    }
    aliases = Alias.objects.values_list("model__name", "name", "version__digest")
    return names | {f"{model}:{alias}": digest for model, alias, digest in aliases}


def list_names() -> int:
    """Write `names.json` as the rows say and return its revision."""
    home = active_home()
    with exclusive(home.run / "names.lock"):
        with transaction.atomic():
            names = names_of_rows()
        return publish_names(home, names, signer(home.keys))


def list_names_again() -> None:
    """Write `names.json` if it is not what the rows say; a database without versions leaves it as it is."""
    if Version.objects.exists():
        list_names()


def refuse_if_forgotten() -> None:
    """Raise Conflict when the shelf lists names and the database knows no version: it was lost or replaced.

    Numbering would start again at 1, and a name that callers hold would mean another model.
    """
    try:
        listed = read_names(active_home())
        known = bool(listed and listed.names)
    except InvalidInput:
        known = True
    # Rows are looked at last: names are written after a commit, so whoever sees names sees their rows as well.
    if known and not Version.objects.exists():
        raise Conflict(
            "the database knows no model, but the shelf lists some; bring the database back with `modelyard restore "
            "ARCHIVE`, or rebuild it from plan and shelf with `modelyard adopt`"
        )

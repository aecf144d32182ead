"""From a packaged model to a registered version: the shelf first, then the row that names it."""

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.control.registry.code_revision import with_code_revision
from modelyard.control.setup import start


def register_packaged(
    manifest: Manifest, files: dict[str, bytes], by: str = "local", note: str = ""
) -> tuple[str, int]:
    """Put an artifact on the shelf and register it; the model's name and the version's number come back.

    A model's first version becomes its `champion`. The git revision of the working folder goes into its lineage, if it
    has one. May be called in any process: it wakes the control plane itself.
    """
    home = Home(start().root)
    manifest = with_code_revision(manifest)
    from modelyard.control.registry.services import CHAMPION, register_version, set_alias  # tables exist from here on

    digest = Shelf(home.shelf).put(manifest, files)
    version = register_version(manifest, digest, by, note)
    if not version.model.aliases.filter(name=CHAMPION).exists():
        set_alias(version.model.name, CHAMPION, version.number, by)
    return version.model.name, version.number

"""The reference is the code's: every setting, metric, verb, path and fixed limit stands in its page, as it is."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from modelyard.cli.main import _leaves, command_line
from modelyard.contract.features import Column
from modelyard.contract.settings import Settings, load_settings
from modelyard.secure.keys import SCOPES
from modelyard.serve.counters import HELP
from modelyard.serve.paths import PATHS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return [text for said, text in BLOCK.findall(path.read_text("utf-8")) if said == language]


def as_toml(value: object) -> str:
    """A default as one would write it in modelyard.toml."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


# --- settings, metrics, contract, limits ------------------------------------------------------------------------


def test_every_setting_stands_there_with_its_default_and_no_other_does() -> None:
    said = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", page("reference/settings.md"), re.MULTILINE))
    assert said == {field.name: as_toml(field.default) for field in msgspec.structs.fields(Settings)}


def test_every_metric_stands_there_with_its_help() -> None:
    said = re.findall(r"^\| `(modelyard_\w+)` \| (\w+) \|", page("reference/metrics.md"), re.MULTILINE)
    assert [name for name, _ in said] == list(HELP)


def test_every_field_of_a_column_stands_there() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page("reference/contract.md"), re.MULTILINE)
    said = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(said) == sorted(field.name for field in msgspec.structs.fields(Column))


def test_every_scope_stands_there() -> None:
    said = re.findall(r"^\| `([\w:]+)` \| ", page("how-to/keys-and-exposure.md"), re.MULTILINE)
    assert said == list(SCOPES)


LIMITS = re.findall(r"^\| `([\w.]+)\.([A-Z_]+)` \| ([\d.]+) \|", page("reference/data-plane-limits.md"), re.MULTILINE)


def test_there_are_limits() -> None:
    assert len(LIMITS) > 15


@pytest.mark.parametrize(("module", "name", "said"), LIMITS, ids=[".".join(limit[:2]) for limit in LIMITS])
def test_a_fixed_limit_is_what_the_page_says(module: str, name: str, said: str) -> None:
    assert getattr(import_module(f"modelyard.{module}"), name) == float(said)


# --- the command ------------------------------------------------------------------------------------------------


OPTION = re.compile(r"`(--?[a-z][\w-]*)")


def verbs() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for leaf in _leaves(command_line()):
        yield leaf.prog, leaf


@pytest.mark.parametrize(("name", "verb"), list(verbs()), ids=[name for name, _ in verbs()])
def test_every_verb_stands_there_with_every_option(name: str, verb: argparse.ArgumentParser) -> None:
    sections = re.split(r"^## ", page("reference/cli.md"), flags=re.MULTILINE)
    section = next((text for text in sections if re.match(rf"`{re.escape(name)}[ `]", text)), None)
    assert section is not None, f"{name} has no section"
    shown = [action for action in verb._actions if action.help != argparse.SUPPRESS]
    options = {option for action in shown for option in action.option_strings} - {"-h", "--help"}
    said = {option for row in re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE) for option in OPTION.findall(row)}
    assert said == options


def test_no_section_speaks_of_a_verb_that_is_not_there() -> None:
    known = {name for name, _ in verbs()}
    said = re.findall(r"^## `(modelyard(?: [a-z]+)+)", page("reference/cli.md"), re.MULTILINE)
    assert set(said) == known


def said_commands() -> list[tuple[str, str]]:
    """Every `modelyard …` that a terminal session or a sentence shows."""
    found = []
    for path in PAGES:
        for block in blocks(path, "console"):
            for line in block.splitlines():
                if line.startswith("$ modelyard "):
                    found.append((path.relative_to(ROOT).as_posix(), line[2:]))
                elif re.match(r"(next: )modelyard ", line):
                    found.append((path.relative_to(ROOT).as_posix(), line.removeprefix("next: ")))
    return found


@pytest.mark.parametrize(("where", "line"), said_commands(), ids=[" ".join(pair) for pair in said_commands()])
def test_a_shown_command_is_one(where: str, line: str) -> None:
    words = shlex.split(re.split(r" [|>#]| && |;", line)[0])
    args = command_line().parse_args(words[1:])
    assert hasattr(args, "run")


# --- paths ------------------------------------------------------------------------------------------------------


def routes() -> set[tuple[str, str]]:
    """(method, path) of everything that the gateway answers; what a free part is called is the page's to say."""
    found = set()
    for method, path, _, _ in PATHS:
        found |= {(method, re.sub(r"\[.*\]", "", path)), (method, re.sub(r"[\[\]]", "", path))}
    return {(method, re.sub(r"{\w+}", "{}", path)) for method, path in found}


def test_every_path_of_the_gateway_stands_in_one_table() -> None:
    text = "".join(page(f"reference/{name}.md") for name in ("http-api", "v1-protocol", "v2-protocol", "mlflow"))
    said = re.findall(r"^\| `(GET|POST) (/[^`]*)` \|", text, re.MULTILINE)
    assert len(said) == len(set(said))
    assert {(method, re.sub(r"{\w+}", "{}", path)) for method, path in said} == routes()


def test_every_path_of_the_control_plane_stands_there() -> None:
    urls = (ROOT / "src/modelyard/control/urls.py").read_text("utf-8")
    listed = urls.partition("v1 = [")[2].partition("\n]")[0]
    known = ["/api/v1/" + re.sub(r"<\w+:(\w+)>", r"{\1}", path) for path in re.findall(r'path\("([^"]+)"', listed)]
    said = re.findall(r"^\| `(/api/v1/[^`]+)` \|", page("reference/http-api.md"), re.MULTILINE)
    assert said == known


# --- what pages show --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_shown_python_and_toml_can_be_read(path: Path) -> None:
    for text in blocks(path, "python"):
        compile(text, path.name, "exec")
    for text in blocks(path, "toml"):
        tomllib.loads(text)


@pytest.mark.parametrize("name", ["how-to/keys-and-exposure.md", "how-to/run-behind-nginx.md"])
def test_shown_settings_are_accepted(name: str, tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text(blocks(DOCS / name, "toml")[0], "utf-8")
    settings, _ = load_settings(environment={}, folder=tmp_path)
    assert settings.require_keys


def test_both_readmes_have_the_same_headings_and_the_same_code() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    levels = [re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    assert len(re.findall(r"\]\((?!README)", english)) == len(re.findall(r"\]\((?!README)", chinese))


def test_the_map_of_the_documentation_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w/-]+\.md)\)", page("README.md")))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}
    assert {name for name in there if not name.startswith("adr/")} <= named

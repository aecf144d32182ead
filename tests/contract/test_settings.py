"""Where a setting comes from, which one wins, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.contract.errors import InvalidInput
from modelyard.contract.settings import Settings, load_settings

NAMES = [field.name for field in msgspec.structs.fields(Settings)]


def in_home(folder: Path, text: str) -> Path:
    home = folder / "home"
    home.mkdir()
    (home / "modelyard.toml").write_text(text, "utf-8")
    return home


def test_precedence_and_origins(tmp_path: Path) -> None:
    home = in_home(tmp_path, "max_rows = 3\nmax_headers = 3\nworkers = 3\n")
    (tmp_path / "modelyard.toml").write_text("max_rows = 4\nmax_headers = 4\nworkers = 4\ngateway_port = 4\n", "utf-8")
    environment = {"MODELYARD_HOME": str(home), "MODELYARD_MAX_ROWS": "2", "MODELYARD_MAX_HEADERS": "2"}
    settings, origins = load_settings({"max_rows": 1, "max_headers": None}, environment, tmp_path)
    shown = {name: (getattr(settings, name), origins[name]) for name in NAMES}
    assert shown["max_rows"] == (1, "command line")
    assert shown["max_headers"] == (2, "MODELYARD_MAX_HEADERS")
    assert shown["workers"] == (3, str(home / "modelyard.toml"))
    assert shown["gateway_port"] == (4, str(tmp_path / "modelyard.toml"))
    assert shown["control_port"] == (8080, "default")
    assert shown["home"] == (str(home), "MODELYARD_HOME")


def test_without_anything_every_setting_is_its_default(tmp_path: Path) -> None:
    settings, origins = load_settings({}, {}, tmp_path)
    assert settings == Settings()
    assert set(origins) == set(NAMES)
    assert set(origins.values()) == {"default"}


def test_the_working_folder_may_say_where_the_home_is(tmp_path: Path) -> None:
    home = in_home(tmp_path, "max_rows = 7\n")
    (tmp_path / "modelyard.toml").write_text(f"home = '{home}'\n", "utf-8")
    settings, origins = load_settings({}, {}, tmp_path)
    assert (settings.home, origins["home"]) == (str(home), str(tmp_path / "modelyard.toml"))
    assert settings.max_rows == 7
    other = tmp_path / "other"
    settings, origins = load_settings({"home": str(other)}, {"MODELYARD_HOME": "never"}, tmp_path)
    assert (settings.home, origins["home"], settings.max_rows) == (str(other), "command line", 10_000)


def test_a_home_does_not_say_where_it_is(tmp_path: Path) -> None:
    home = in_home(tmp_path, "home = 'elsewhere'\n")
    with pytest.raises(InvalidInput, match="own file"):
        load_settings({"home": str(home)}, {}, tmp_path)


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_an_unknown_setting_is_refused_by_name(tmp_path: Path, how: str) -> None:
    flags = {"max_row": 1} if how == "flag" else {}
    environment = {"MODELYARD_MAX_ROW": "1"} if how == "environment" else {}
    if how == "file":
        (tmp_path / "modelyard.toml").write_text("max_row = 1\n", "utf-8")
    with pytest.raises(InvalidInput, match="'max_row'"):
        load_settings(flags, environment, tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        *[(text, "require_keys", True) for text in ("1", "true", "TRUE", "yes", "on")],
        *[(text, "require_keys", False) for text in ("0", "false", "False", "no", "off")],
        ("a.example, b.example,", "allowed_hosts", ("a.example", "b.example")),
        ("", "cors_origins", ()),
        ("https://a.example", "cors_origins", ("https://a.example",)),
        ("4096", "max_rows", 4096),
        ("0.5", "deadline_s", 0.5),
        ("3", "deadline_s", 3.0),
        ("postgresql://db/x", "database_url", "postgresql://db/x"),
    ],
)
def test_the_environment_is_text_in_the_settings_own_type(tmp_path: Path, text: str, name: str, value: Any) -> None:
    settings, _ = load_settings({}, {f"MODELYARD_{name.upper()}": text}, tmp_path)
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("require_keys", "maybe"), ("max_rows", "many"), ("max_rows", "1.5"), ("max_rows", "0"),
        ("max_body_bytes", "-1"),
        ("max_header_bytes", "0"), ("max_headers", "0"), ("max_connections", "0"), ("max_outstanding", "0"),
        ("max_queued_rows", "0"), ("record_bytes", "0"), ("workers", "-1"), ("workers", "257"),
        ("gateway_port", "65536"),
        ("control_port", "-1"), ("deadline_s", "0"), ("deadline_s", "nan"), ("deadline_s", "inf"), ("deadline_s", "-1"),
        ("header_timeout_s", "0"), ("body_timeout_s", "0"), ("idle_timeout_s", "0"), ("write_timeout_s", "0"),
        ("drain_s", "-1"), ("log_level", "loud"), ("language", "fr"),
        ("tls_key", "key.pem"), ("tls_certificate", "c.pem"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_its_name(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_settings({}, {f"MODELYARD_{name.upper()}": text}, tmp_path)
    assert name.removesuffix("_port").removeprefix("gateway_").removeprefix("control_") in str(refusal.value) or (
        "port" in str(refusal.value)
    )


def test_what_a_caller_holds_is_no_setting(tmp_path: Path) -> None:
    environment = {"MODELYARD_KEY": "my_secret", "MODELYARD_URL": "http://localhost:8000", "PATH": "/bin"}
    assert load_settings({}, environment, tmp_path)[0] == Settings()


@pytest.mark.parametrize("text", [b"max_rows = \n", b"\xff\xfe", b"= 3"])
def test_a_file_that_is_no_toml_is_refused_by_its_path(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "modelyard.toml").write_bytes(text)
    with pytest.raises(InvalidInput, match=r"modelyard\.toml: not TOML"):
        load_settings({}, {}, tmp_path)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback


def test_worker_count_is_as_many_as_cores_unless_said() -> None:
    assert Settings(workers=3).worker_count == 3
    assert Settings().worker_count >= 1

"""The option table: the command line and the settings are made from the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest

from plexus_registry.cli.serve import serve
from plexus_registry.settings import Option, Settings, options

OTHER: dict[object, tuple[str, object]] = {
    int: ("77", 77),
    float: ("0.5", 0.5),
    str: ("10.0.0.0/8", "10.0.0.0/8"),
    Path: ("elsewhere", Path("elsewhere")),
    Path | None: ("elsewhere", Path("elsewhere")),
    tuple[str, ...]: ("https://a.example", ("https://a.example",)),
}
OTHER_OF = {
    "hub_namespace": ("substrate", "substrate"),
    "max_message_bytes": ("2048", 2048),
    "max_unread_bytes": ("2048", 2048),
    "max_unread_total": ("2048", 2048),
    "allow_hosts": ("a.example, b.example", ("a.example", "b.example")),
}
SECRET = "0123456789abcdef"  # noqa: S105 - a test's


def changed(**fields: object) -> Settings:
    """The default settings, with some fields changed."""
    return replace(Settings(), **fields)  # type: ignore[arg-type]  # by name


def parsed(*arguments: str) -> dict[str, object]:
    """The fields of the settings that a command line gives."""
    params = serve.make_context("serve", [*arguments]).params
    return {option.name: params[option.name] for option in options()}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {option.variable for option in options()} - {None} | {"REGISTRY_TOKEN"}:
        monkeypatch.delenv(str(name), raising=False)


def test_without_arguments_the_command_line_gives_the_defaults() -> None:
    assert Settings() == changed(**parsed())


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_a_flag_and_its_variable_set_the_field(
    option: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option.kind is bool:
        assert parsed(option.flag)[option.name] is not option.default
        return
    text, value = OTHER_OF.get(option.name) or OTHER.get(option.kind, ("", None))
    if option.is_secret:
        path = tmp_path / "token"
        path.write_text(SECRET)
        path.chmod(0o600)
        text, value = str(path), SECRET
    assert parsed(option.flag, text)[option.name] == value
    if option.short is not None:
        assert parsed(option.short, text)[option.name] == value
    if option.variable is not None:
        monkeypatch.setenv(option.variable, text)
        assert parsed()[option.name] == value or "," in text  # click splits it at white space


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", -1), ("port", 65536), ("poll_interval", 0), ("poll_interval", 1e10)),
        *(("probe_interval", -1), ("probe_failures", 1), ("max_batch", 0), ("max_nesting", 257)),
        *(("stale_after", float("nan")), ("hub_namespace", "registry"), ("hub_namespace", "a.b")),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_on_both_ways(name: str, value: object) -> None:
    option = next(option for option in options() if option.name == name)
    with pytest.raises(ValueError, match=f"{name} is .*: it must be "):
        changed(**{name: value})
    with pytest.raises(click.BadParameter):
        parsed(f"{option.flag}={value}")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"read_token": SECRET}, "needs one for everything: give --token-file"),
        ({"token": SECRET, "read_token": SECRET}, "is the same"),
        ({"public_reads": True}, "needs a token for changes: give --token-file"),
        ({"tls_key": Path("key.pem")}, "--tls-key needs --tls-cert"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        changed(**settings)


def test_a_token_is_not_shown() -> None:
    assert SECRET not in repr(Settings(token=SECRET, read_token=SECRET[::-1]))
    assert SECRET[::-1] not in repr(Settings(token=SECRET, read_token=SECRET[::-1]))

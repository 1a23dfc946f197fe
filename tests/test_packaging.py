"""What is installed is all that there is: an editable install would not notice a missing part."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_is_installed() -> None:
    folders = {each.parent for kind in ("*.py", "*.md") for each in SOURCES.rglob(kind)}
    assert set(SETUPTOOLS["packages"]) == {
        ".".join(each.relative_to(SOURCES).parts) for each in folders
    }


def test_every_file_that_is_no_module_is_installed() -> None:
    stated = {
        each
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for each in SOURCES.joinpath(*package.split(".")).glob(pattern)
    }
    folders = (SOURCES.joinpath(*package.split(".")) for package in SETUPTOOLS["packages"])
    files = {each for folder in folders for each in folder.iterdir() if each.is_file()}
    assert stated == {each for each in files if each.suffix != ".py"}

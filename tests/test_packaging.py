"""What is installed is all that there is: an editable install would not notice a missing part."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    sources = ROOT / "src"
    found = {
        ".".join(each.parent.relative_to(sources).parts) for each in sources.rglob("__init__.py")
    }
    assert set(stated) == found

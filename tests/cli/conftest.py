"""One registry for all tests of a module; each uses names of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import shared_registry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with shared_registry(folder, "--no-auto-register") as where:
        yield where

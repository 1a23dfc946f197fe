"""Tokens: read from a file that only its owner can read, or from the environment."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import TokenError

if TYPE_CHECKING:
    from pathlib import Path

MIN_TOKEN, MAX_TOKEN = 16, 4096
"""The length of a token, in characters."""
TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - its name, not the token
READ_TOKEN_VARIABLE = "REGISTRY_READ_TOKEN"  # noqa: S105 - its name, not the token

_GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_token(path: Path) -> str:
    """Read the token in a file.

    Raises:
        TokenError: The file cannot be read, holds no valid token, or is open to other users.
    """
    try:
        # Not blocking, because opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise TokenError(f"cannot read the token in {path}: it is not a plain file")
            if mode & _GROUP_OR_OTHERS:
                raise TokenError(
                    f"cannot use the token in {path}: other users may read it, its mode is"
                    f" {stat.S_IMODE(mode):04o}; run: chmod 600 {path}"
                )
            text = file.read(MAX_TOKEN + 2)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TokenError(f"cannot read the token in {path}: {reason}") from error
    return _checked_token(text, origin=str(path))


def token_in_environment(variable: str) -> str | None:
    """Return the token in an environment variable, or None if it is unset or empty.

    Raises:
        TokenError: The variable holds no valid token.
    """
    text = os.environ.get(variable, "")
    return _checked_token(text, origin=variable) if text else None


def _checked_token(text: str, *, origin: str) -> str:
    """Return the token in a text; error messages do not show the text."""
    token = text.strip()
    if not token or len(token) > MAX_TOKEN or not (token.isascii() and token.isprintable()):
        raise TokenError(f"{origin} holds no token: a token is one line of ASCII")
    if len(token) < MIN_TOKEN:
        raise TokenError(
            f"{origin} holds a token of fewer than {MIN_TOKEN} characters, which can be guessed:"
            " make one with `openssl rand -hex 32`"
        )
    return token

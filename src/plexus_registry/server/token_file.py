"""Tokens, from files that only their owner reads, or from the environment."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import TokenError

if TYPE_CHECKING:
    from pathlib import Path

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
MIN_TOKEN, MAX_TOKEN = 16, 4096
TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - its name, not the token
READ_TOKEN_VARIABLE = "REGISTRY_READ_TOKEN"  # noqa: S105 - its name, not the token


def read_token(path: Path) -> str:
    """Read the token in a file.

    Raises:
        TokenError: It cannot be read, holds no token, or others may read it.
    """
    try:
        # Without a wait: opening a named pipe would wait for whoever writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise TokenError(f"cannot read the token in {path}: it is no plain file")
            if mode & _FOR_OTHERS:
                raise TokenError(
                    f"cannot use the token in {path}: others may read it, its mode is"
                    f" {stat.S_IMODE(mode):04o}; say: chmod 600 {path}"
                )
            text = file.read(MAX_TOKEN + 2)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TokenError(f"cannot read the token in {path}: {reason}") from error
    return checked(text, origin=str(path))


def checked(text: str, *, origin: str) -> str:
    """Give the token in a text.

    Raises:
        TokenError: There is none, or it is too short; the message does not show the text.
    """
    token = text.strip()
    if not token or len(token) > MAX_TOKEN or not (token.isascii() and token.isprintable()):
        raise TokenError(f"{origin} holds no token: one line of ASCII is one")
    if len(token) < MIN_TOKEN:
        raise TokenError(
            f"{origin} holds a token of fewer than {MIN_TOKEN} characters, which can be guessed:"
            " make one with `openssl rand -hex 32`"
        )
    return token


def token_in_environment(variable: str) -> str | None:
    """Give the token in an environment variable; None where it is unset or empty.

    Raises:
        TokenError: It holds something else.
    """
    text = os.environ.get(variable, "")
    return checked(text, origin=variable) if text else None

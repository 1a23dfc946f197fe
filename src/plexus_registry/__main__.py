"""The `trio-registry` command as a process; `python -m plexus_registry` is the same.

Ctrl-C is handled before any import that takes time.
"""

import os
import signal

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; Ctrl-C ends it at any moment with status 130 and without a traceback.

    That loses nothing: acknowledged changes are on the disk, and the output is flushed. `serve` and
    `announce` have something to finish, so they receive the signal themselves once they run.
    """
    # Trio does not replace a handler that is not Python's own. If Ctrl-C is ignored, as a shell
    # ignores it for processes in the background, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    from plexus_registry.cli import main as command

    command(prog_name="trio-registry")


if __name__ == "__main__":
    main()

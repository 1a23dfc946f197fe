"""The `trio-registry` command as a process; `python -m plexus_registry` is the same.

Ctrl-C is handled before anything that takes time is imported.
"""

import os
import signal

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; Ctrl-C ends it at any moment with status 130 and without a traceback.

    Nothing is lost by ending at once: what was acknowledged is on the disk, and what was printed
    is flushed. `serve` and `announce` have something to finish, and receive the signal themselves
    once they run.
    """
    # Trio leaves a handler alone that is not Python's own. One who ignores Ctrl-C, as a shell does
    # for what it runs in the background, goes on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    from plexus_registry.cli import main as command

    command(prog_name="trio-registry")


if __name__ == "__main__":
    main()

"""Entry point of the command; it handles Ctrl-C and SIGTERM from the start, and therefore imports little."""

from __future__ import annotations

import sys

from unrolled.engine.signals import INTERRUPTED, Interruption


def main() -> None:
    """Run the command; an interruption at any time prints one line and exits with code 130."""
    interruption = Interruption()
    interruption.install()
    try:
        try:
            from unrolled.cli.app import run

            interruption.raises = True
            code = run(interruption)
        except BaseException:  # some libraries turn a KeyboardInterrupt into another error
            if not interruption.received:
                raise
            code = INTERRUPTED
        interruption.ignore()
    except KeyboardInterrupt:  # a second interruption, after the verb has ended
        code = INTERRUPTED
        interruption.ignore()
    if code == INTERRUPTED and interruption.received:
        interruption.say()
    sys.exit(code)


if __name__ == "__main__":
    main()

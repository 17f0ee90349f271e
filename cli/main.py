"""The command's entry point: it answers Ctrl-C and SIGTERM from its first moment on, which is why it imports little."""

from __future__ import annotations

import sys

from unrolled.engine.signals import INTERRUPTED, Interruption


def main() -> None:
    """Run the command; an interruption at any moment is one line and exit code 130."""
    interruption = Interruption()
    interruption.install()
    try:
        try:
            from unrolled.cli.app import run

            interruption.raises = True
            code = run(interruption)
        except BaseException:  # some libraries make another error of a KeyboardInterrupt
            if not interruption.received:
                raise
            code = INTERRUPTED
        interruption.ignore()
    except KeyboardInterrupt:  # a second one, since the verb has ended
        code = INTERRUPTED
        interruption.ignore()
    if code == INTERRUPTED and interruption.received:
        interruption.say()
    sys.exit(code)


if __name__ == "__main__":
    main()

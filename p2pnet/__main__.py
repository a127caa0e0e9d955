"""`p2pnet`, and `python -m p2pnet`. While the command line is imported, Ctrl-C ends this process as any other: at once,
and without Python's traceback.
"""

from __future__ import annotations

import signal


def main() -> None:
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from p2pnet.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()

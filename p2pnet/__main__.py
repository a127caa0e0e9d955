"""`p2pnet`, and `python -m p2pnet`. While the command line is imported, and while its threads are waited for, Ctrl-C
ends this process as it does in between: at once, with one line and the status that shells give it, without a traceback.
"""

from __future__ import annotations

import atexit
import os
import signal


def main() -> None:
    handler = signal.getsignal(signal.SIGINT)
    ours = _leave if handler is signal.default_int_handler else handler  # a shell's background ignores Ctrl-C
    signal.signal(signal.SIGINT, ours)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done: its own status says how it went
    try:
        from p2pnet.cli.main import main as run

        signal.signal(signal.SIGINT, handler)
        run()
    except KeyboardInterrupt:  # it came before the command line could take it
        _leave()
    finally:
        signal.signal(signal.SIGINT, ours)


def _leave(*_: object) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

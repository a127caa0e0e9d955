"""`p2pnet serve`: lend this machine. Hands its flags on to the process of a worker."""

from __future__ import annotations

from p2pnet.cli.serve.flags import SERVE_GROUPS, ServeFlags
from p2pnet.cli.signature import takes


@takes(ServeFlags, SERVE_GROUPS)
def serve(flags: ServeFlags) -> None:
    """Lend this machine: run models for others. SIGUSR1 pauses the worker, and resumes it."""
    from p2pnet.cli import logs
    from p2pnet.cli.serve.config import config_of
    from p2pnet.cli.serve.process import run_worker

    logs.configure(flags.log_level, flags.log_json)
    run_worker(config_of(flags))

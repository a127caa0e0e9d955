"""Writes the systemd unit of a service, and tells whether a person has changed it since.

Knows nothing of folders or of systemctl. https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from p2pnet.errors import UsageError

HEADER = "# Made by `p2pnet service install`. If you change it, that is kept: sha256 "
STOP_MARGIN_S = 30.0
"""Beyond the time for running requests: to withdraw, to free the models, to part from other peers."""
RESTART_S = 10
"""A network that is not up yet, or a bootstrap that restarts, is there a few tries later."""


@dataclass(frozen=True)
class Service:
    """What is run: a role's command with its flags, in a folder where its relative paths hold."""

    role: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    folder: str
    drain_s: float = 0.0


def unit_name(role: str) -> str:
    return f"p2pnet-{role}.service"


def unit_text(service: Service) -> str:
    """The whole file. Raises UsageError for what no unit can hold."""
    command = " ".join(map(quoted, (*service.program, *service.arguments)))
    body = f"""\
[Unit]
Description=p2pnet {service.role}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={_plain(service.folder).replace("%", "%%")}
Environment=PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec={RESTART_S}
# Status 2 is a mistake in the flags: trying again does not mend it.
RestartPreventExitStatus=2
# What is asked to stop before it serves ends with the signal's status.
SuccessExitStatus=130 143
# Only p2pnet is asked to stop: it withdraws its records through p2pd, and ends that itself.
KillMode=mixed
TimeoutStopSec={service.drain_s + STOP_MARGIN_S:.0f}
{_NICE if service.role == "worker" else ""}NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=default.target
"""
    return f"{HEADER}{_digest(body)}\n{body}"


_NICE = """\
# The owner's own programs come first.
Nice=10
"""


def is_untouched(text: str) -> bool:
    """Whether this is a unit as we wrote it, whatever its flags were."""
    header, _, body = text.partition("\n")
    return header == f"{HEADER}{_digest(body)}"


def quoted(argument: str) -> str:
    """One argument as ExecStart takes it: nothing in it is a specifier, a variable or a separator."""
    text = _plain(argument).replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    is_bare = bool(text) and all(char.isalnum() or char in "-_./:,=+@%" for char in text)
    return text if is_bare else f'"{text}"'


def _plain(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot stand in a systemd unit.", "Leave line breaks and control characters out.")
    return text


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()

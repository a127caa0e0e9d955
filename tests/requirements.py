"""What a test needs of the machine: it is skipped with its reason where that is missing, but fails under CI=true."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def requires_tools(*tools: str) -> None:
    """Skip the test where one of these commands is missing."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        unavailable(f"{', '.join(missing)} not installed")


def requires_network_namespaces() -> None:
    """Skip the test where we may not make network namespaces and filter packets in them."""
    requires_tools("ip", "iptables", "sysctl")
    if os.geteuid() != 0:
        unavailable("network namespaces need root")
    name = f"probe{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            unavailable(f"network namespaces cannot be made: {made.stderr.strip()}")
        rule = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"]
        filtered = subprocess.run(["ip", "netns", "exec", name, *rule], capture_output=True, text=True, check=False)
        if filtered.returncode != 0:
            unavailable(f"iptables cannot masquerade: {filtered.stderr.strip()}")
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def unavailable(reason: str) -> None:
    """Skip with a reason; under CI=true a machine that lacks something is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI machines must have it: {reason}", pytrace=False)
    pytest.skip(reason)

"""Containerfile and compose.yaml: what they name exists, and their commands, run here as processes, are a network.

No image is built here. What its steps install is what tests/installing installs.
"""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from p2pnet.cli.health import health
from p2pnet.errors import UsageError
from scripts.cli_docs import commands
from tests.processes import Process, free_port, processes, run, wait_until

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

FLAGS = {command.name: {name for flag in command.flags for name in flag.names} for command in commands()}
VARIABLES = {command.name: {flag.envvar for flag in command.flags} for command in commands()}
OURS = ("P2PNET_DATA_DIR",)
"""A variable that is no flag's."""

pytestmark = pytest.mark.timeout(300)

every_service = pytest.mark.parametrize("name", SERVICES)


def steps(of: str = IMAGE) -> list[tuple[str, str]]:
    """Instructions and their arguments, those of several lines as one."""
    lines = re.sub(r"^#.*\n", "", of.replace("\\\n", " "), flags=re.MULTILINE).splitlines()
    return [(word, rest) for line in lines if line.strip() for word, _, rest in [line.partition(" ")]]


def test_the_image_runs_as_nobody_who_matters() -> None:
    (user,) = [rest for word, rest in steps() if word == "USER"]
    assert int(user) > 0, "a number, not 0: platforms check that"
    made = next(rest for word, rest in steps() if word == "RUN" and "useradd" in rest)
    assert f"--uid {user} " in made
    assert made.count(f" -o {user} -g {user} ") == 1


def test_its_bases_are_named_with_a_version_and_nothing_is_fetched_past_pip() -> None:
    bases = [rest.split()[0] for word, rest in steps() if word == "FROM"]
    assert set(bases) == {"docker.io/library/python:3.12-slim"}
    assert {word for word, _ in steps()} <= {
        *("FROM", "ARG", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"),
        *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    assert "curl" not in IMAGE and "wget" not in IMAGE


def test_the_image_is_made_of_the_wheel_alone() -> None:
    copied = [rest for word, rest in steps() if word == "COPY" and "--from" not in rest]
    assert copied == ["dist/p2pnet-*.whl /tmp/"]
    seen = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert seen == ["*", "!dist/*.whl"]


def test_torch_in_the_image_is_one_that_the_wheel_takes() -> None:
    (line,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert f'"{line.rpartition(".")[0]}.*"' in IMAGE


@every_service
def test_a_service_runs_a_command_of_ours_with_flags_and_variables_that_it_has(name: str) -> None:
    service = SERVICES[name]
    command, *flags = service["command"]
    assert {flag for flag in flags if flag.startswith("--")} <= FLAGS[command]
    named = {variable for variable in service["environment"] if variable.startswith("P2PNET_")}
    assert named <= VARIABLES[command]
    of_image = set(re.findall(r"\bP2PNET_\w+(?==)", IMAGE))
    assert of_image <= VARIABLES[command] | set(OURS)


@every_service
def test_a_service_keeps_its_keys_and_may_do_nothing_else(name: str) -> None:
    service = SERVICES[name]
    kept = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert kept == {name: "/var/lib/p2pnet", "meeting": "/var/lib/p2pnet-meeting"}
    assert set(kept) <= set(COMPOSE["volumes"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service.get("privileged")
    assert service["healthcheck"]["test"] == ["CMD", *shlex.split("p2pnet health")]
    assert 'CMD ["p2pnet", "health"]' in IMAGE


def test_what_the_world_reaches_is_the_bootstrap_alone() -> None:
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports == {
        "bootstrap": ["31337:31337/tcp", "31337:31337/udp"],
        "gateway": ["127.0.0.1:8000:8000"],
        "worker": [],
    }


def is_well(ready_file: Path, listen: list[str]) -> bool:
    try:
        health(ready_file, listen)
    except UsageError:
        return False
    return True


def test_the_services_are_a_network(tmp_path: Path) -> None:
    """Given each service's command and environment, with this machine's folders and ports for those of containers, when
    all run, then the health check of each says so, and a caller with a key has an answer."""
    port = str(free_port())
    running: dict[str, Process] = {}
    with processes("compose") as start:

        def here(text: str) -> str:
            """The same on this machine."""
            meeting = next(start.root.glob("bootstrap-*"), Path("/nowhere")) / "ready.json"
            for theirs, ours in (
                *(("0.0.0.0", "127.0.0.1"), ("31337", port), ("9090", "0"), ("${P2PNET_MODEL:-tiny}", "tiny")),
                *(("${P2PNET_ANNOUNCE:-}", ""), ("/var/lib/p2pnet-meeting/bootstrap.json", str(meeting))),
                ("/var/lib/p2pnet", str(tmp_path)),
            ):
                text = text.replace(theirs, ours)
            return text

        added = run("keys", "add", "me", "--api-key-file", here("/var/lib/p2pnet/keys.txt"), root=start.root)
        key = re.findall(r"\S{40,}", added.stdout)[0]
        for name, service in SERVICES.items():  # the bootstrap is the first
            environment = {variable: here(value) for variable, value in service["environment"].items()}
            environment.setdefault("P2PNET_LISTEN", "/ip4/127.0.0.1/tcp/0")
            words = [*map(here, service["command"]), *(("--port", "0") if name == "gateway" else ())]
            running[name] = start(*words, name=name, environment=environment)
            running["bootstrap"].wait_ready()
        for name, process in running.items():
            process.wait_ready()
            (file,) = start.root.glob(f"{name}-*/ready.json")
            listen = here(SERVICES[name]["environment"].get("P2PNET_LISTEN", "")).split()
            wait_until(partial(is_well, file, listen), f"{name} is well")  # a gateway looks for workers first
        url = str(running["gateway"].ready.http)
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            wait_until(lambda: "tiny" in client.get("/v1/models").text, "its model is offered")
            body = {"model": "tiny", "prompt": "What", "max_tokens": 3}
            assert client.post("/v1/completions", json=body).status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401

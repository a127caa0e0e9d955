"""Builds the wheel as a release does, and installs it where nothing of this repository can be seen.

The packages that it depends on are those of the Python that runs the tests, by links, and no others: what the wheel
needs and does not name is not there. pip holds the wheel's requirements against them, and fetches nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from scripts.release import ROOT, build

OUTSIDE = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@dataclass(frozen=True)
class Built:
    wheel: Path
    source: Path


def built(folder: Path) -> Built:
    """What `make wheel` leaves in dist/."""
    source, wheel = sorted(build(folder), key=lambda path: path.suffix == ".whl")
    return Built(wheel, source)


def install(wheel: Path, folder: Path) -> Path:
    """An environment that holds the wheel and what it depends on: its folder with `python` and `p2pnet`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{linked_dependencies(folder / 'dependencies')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-index"]
    installed = subprocess.run([*pip, str(wheel)], env=OUTSIDE, cwd=folder, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"


def linked_dependencies(folder: Path, *more: str) -> Path:
    """The packages that p2pnet depends on and their dependencies, without extras, in a folder of links; and more."""
    folder.mkdir()
    for found in dependencies(*project(), *more):
        for name in {file.parts[0] for file in found.files or () if ".." not in file.parts}:
            link = folder / name
            if name not in ("__pycache__", "bin") and not link.exists():
                link.symlink_to(str(found.locate_file(name)))
    return folder


def project() -> list[str]:
    """What pyproject.toml says. That what is installed here says so too would not be known."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def dependencies(*lines: str) -> list[Distribution]:
    """What these requirements stand for and all that it depends on, as it is installed here."""
    found: dict[str, Distribution] = {}

    def add(lines: Iterable[str]) -> None:
        for requirement in map(Requirement, lines):
            is_meant = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_meant and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                add(found[requirement.name].requires or ())

    add(lines)
    return list(found.values())

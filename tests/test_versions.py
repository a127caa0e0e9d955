"""Which versions of other packages are allowed: none that nobody has run the tests with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from p2pnet.worker.gguf.library import VERSIONS

ROOT = Path(__file__).resolve().parent.parent
BUILT_ON = ("fastapi", "hivemind", "torch", "transformers", "uvicorn")
"""What a minor version of theirs has broken before, or may: we subclass their insides, or run models on them."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

OLDEST = {"fastapi": "0.115.0", "hivemind": "1.1.12", "torch": "2.13.0", "transformers": "5.24.0", "uvicorn": "0.53.0"}
"""What the tests of the gateway and of the engine passed with at the lower end. Before uvicorn 0.53 an answer of
HTTP/1.0 does not end its connection. Before transformers 5.24 GPT-J runs one answer at a time, and 5.0 needs more
memory than we expect. Other versions of torch and hivemind were not tried."""

ALLOWED = {
    requirement.name: requirement.specifier for line in PROJECT["dependencies"] for requirement in [Requirement(line)]
}
TESTED = {
    name: Version(version)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
    for name, version in [line.split("==")]
}


@pytest.mark.parametrize("name", BUILT_ON)
def test_the_newest_version_that_is_allowed_is_the_one_that_is_tested(name: str) -> None:
    tested = TESTED[name]
    assert tested in ALLOWED[name]
    assert Version(f"{tested.major}.{tested.minor + 1}") not in ALLOWED[name]
    assert Version(f"{tested.major + 1}.0") not in ALLOWED[name]


def test_of_llama_cpp_only_the_version_that_is_tested_is_allowed() -> None:
    """Each patch brings another llama.cpp, and with it other structures behind the same names."""
    (line,) = PROJECT["optional-dependencies"]["gguf"]
    allowed, tested = Requirement(line).specifier, TESTED["llama_cpp_python"]
    assert allowed == SpecifierSet(VERSIONS)
    assert tested in allowed
    assert Version(f"{tested.major}.{tested.minor}.{tested.micro + 1}") not in allowed


@pytest.mark.parametrize("name", BUILT_ON)
def test_the_oldest_version_that_is_allowed_was_tested_too(name: str) -> None:
    oldest = Version(OLDEST[name])
    (lowest,) = (Version(bound.version) for bound in ALLOWED[name] if bound.operator == ">=")
    assert (lowest.major, lowest.minor) == (oldest.major, oldest.minor) and lowest <= oldest

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

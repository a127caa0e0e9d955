"""What a release is: one version, in code, tag and changelog."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from p2pnet.config import AGENT
from scripts.release import CHANGELOG, HASHES, ROOT, Unfit, build, check_release, newest_entry

PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]
NOTED = "# Changelog\n\nFor those who run it.\n\n## 1.2.0, 2026-01-31\n\n- News.\n\n## 1.1.0, 2025-12-31\n"


def test_the_changelog_begins_with_the_version_that_is_here() -> None:
    version, _ = newest_entry(CHANGELOG.read_text())
    assert f"p2pnet/{version}" == AGENT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_the_wheel_that_is_here(page: Path) -> None:
    named = set(re.findall(r"p2pnet-(\d[\w.]*)-py3-none-any\.whl", page.read_text(encoding="utf-8")))
    assert named <= {AGENT.partition("/")[2]}


def test_what_is_of_one_version_is_released() -> None:
    check_release("1.2.0", NOTED, ["v1.2.0", "stable"], "")


@pytest.mark.parametrize(
    ("version", "changelog", "tags", "changed", "said"),
    [
        ("1.2.0", NOTED, ["v1.2.0"], " M README.md", "not as they were committed:\n M README.md"),
        ("1.3.0", NOTED, ["v1.3.0"], "", "begins with 1.2.0, 2026-01-31. Write `## 1.3.0, `"),
        ("1.2.0", NOTED.replace("2026-01-31", "unreleased"), ["v1.2.0"], "", "begins with 1.2.0, unreleased"),
        ("1.2.0", "# Changelog\n\n## Soon\n", ["v1.2.0"], "", "has no entry of the form"),
        ("1.2.0", NOTED, [], "", "No tag v1.2.0 is at this commit"),
        ("1.2.0", NOTED, ["v1.2.1"], "", "No tag v1.2.0 is at this commit"),
    ],
)
def test_what_is_not_is_refused(version: str, changelog: str, tags: list[str], changed: str, said: str) -> None:
    with pytest.raises(Unfit) as refused:
        check_release(version, changelog, tags, changed)
    assert said in str(refused.value)


def test_a_build_has_its_hashes_and_is_the_same_again(tmp_path: Path) -> None:
    wheel, source = sorted(build(tmp_path / "dist"), key=lambda path: path.suffix != ".whl")
    version = AGENT.partition("/")[2]
    assert (wheel.name, source.name) == (f"p2pnet-{version}-py3-none-any.whl", f"p2pnet-{version}.tar.gz")
    noted = (tmp_path / "dist" / HASHES).read_text()
    assert sorted(noted.splitlines()) == sorted(f"{_hash(path)}  {path.name}" for path in (wheel, source))
    build(tmp_path / "dist")
    assert (tmp_path / "dist" / HASHES).read_text() == noted


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

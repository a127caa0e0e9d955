"""The pages for people name what is there: files, headings, commands and flags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.cli_docs import commands
from scripts.tree import MODULES, README, modules, with_tree
from tests.rooms import ROOMS

ROOT = Path(__file__).parent.parent
FOLDERS = (".", "docs", "p2pnet/assets/tiny")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))

FOLDERS_OF_CODE = ("p2pnet", "gateway", "bench", "scripts", "tests")
SOURCES = [path for folder in FOLDERS_OF_CODE for path in (ROOT / folder).rglob("*.py")]

GROUPS = {command.name.split()[0] for command in commands() if " " in command.name}
FLAGS = {command.name: {name for flag in command.flags for name in flag.names} | {"--help"} for command in commands()}
WITHOUT_COMMAND = {"--help", "--version", "--install-completion", "--show-completion"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_of(page: Path) -> Iterator[str]:
    """Spans of code, and the lines of indented and fenced blocks."""
    text = text_of(page)
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from (line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    "))
    for block in re.findall(r"^```.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


def test_there_are_pages() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "architecture.md", "protocol.md", "cli.md", "faq.md"} <= {
        page.name for page in PAGES
    }


@every_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@every_page
def test_commands_and_their_flags_exist(page: Path) -> None:
    for code in code_of(page):
        if (command := re.match(r"(?:\S*/)?p2pnet ([a-z]+)\b([^|;&]*)", code)) is not None:
            name, rest = command.groups()
            if name in GROUPS:
                if not rest.split():
                    continue  # all of its commands are meant
                name = f"{name} {rest.split()[0]}"
            assert name in FLAGS, code
            own, _, handed_on = rest.partition(" -- ")
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", own)) <= FLAGS[name], code
            if handed_on:  # to the command that a service runs
                role = own.split()[-1]
                flags = FLAGS[{"worker": "serve"}.get(role, role)]
                assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", handed_on)) <= flags, code


@every_page
def test_flags_named_alone_exist(page: Path) -> None:
    """Those of `p2pnet`, or of one of the scripts and benchmarks."""
    known = set().union(WITHOUT_COMMAND, *FLAGS.values())
    programs = [path for folder in ("scripts", "bench") for path in (ROOT / folder).glob("*.py")]
    scripts = "".join(path.read_text(encoding="utf-8") for path in programs)
    for code in code_of(page):
        if (flag := re.match(r"--[a-z][\w-]*", code)) is not None:
            assert flag[0] in known or f'"{flag[0]}"' in scripts, code


def test_the_tree_names_only_what_exists() -> None:
    (tree,) = re.findall(r"^```tree\n(.*?)^```$", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0]]
        path = ROOT.joinpath(*folders)
        assert path.is_dir() if line.split()[0].endswith("/") else path.is_file(), line


def test_the_tree_says_what_the_docstrings_say() -> None:
    """`python scripts/tree.py` writes both pages anew."""
    page = README.read_text(encoding="utf-8")
    assert page == with_tree(page)
    assert MODULES.read_text(encoding="utf-8") == modules()


def test_the_tree_names_every_module_of_the_first_level() -> None:
    """A new file of the peer library or the gateway gets its line."""
    tree = text_of(ROOT / "README.md")
    modules = [path.name for package in ("p2pnet", "gateway") for path in (ROOT / package).glob("[!_]*.py")]
    assert [name for name in modules if f"  {name} " not in tree] == []


@every_page
def test_files_named_in_prose_exist(page: Path) -> None:
    """Those that are named with their folder, from the root, from p2pnet/, or from a room of either package."""
    known = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    for code in code_of(page):
        for name in re.findall(r"(?<![\w/.<{-])(?:\w+/)+\w+\.py\b", code):
            assert any(path == name or path.endswith(f"/{name}") for path in known), name


def test_the_rooms_are_those_that_the_tests_hold() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)
    assert rows == [room.removeprefix("p2pnet.") for room in ROOMS]

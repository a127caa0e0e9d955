"""Writes the tree in README and docs/modules.md, from the first sentences of docstrings.

python scripts/tree.py            write both anew
python scripts/tree.py --check    fail when one of them is not what it would be
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MODULES = ROOT / "docs" / "modules.md"
PACKAGES = ("p2pnet", "gateway")
WIDTH = 30
"""Of the column with the names, in characters."""

BESIDE = {
    "bootstrap_peers.txt": "where to join when no --initial-peers is given",
    "compose.yaml": "a bootstrap, a worker and a gateway in containers",
    "constraints.txt": "the versions that the Make targets install",
    "Containerfile": "an image of the wheel",
    "Makefile": "make demo, make test, make test-deep, make check, make wheel: thin calls into scripts/",
    "bench/": "what the network costs, how soon it notices who comes and goes, how fast the engine is",
    "docs/": "architecture, protocol, commands, questions and answers, for volunteers and operators",
    "notebooks/": "to lend a hosted machine, and to use the network; tests run them",
    "scripts/": "what the Make targets call, and what writes generated pages and the bundled model",
    "tests/": "mirrors the source; e2e/ runs real processes, installing/ the built wheel, nat/ network namespaces",
}
"""What has no docstring of its own."""

HEADING = """# Modules

What each module is for, in the first sentence of its own docstring. `python scripts/tree.py` writes this page.
The rooms and who may import whom are in [architecture.md](architecture.md#rooms).

"""


def first_sentence(path: Path) -> str:
    """Of a module's docstring, or of a package's. Raises ValueError where there is none."""
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{source.relative_to(ROOT)} has no docstring")
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.match(r".*?[.](?= |$)", paragraph)
    return (paragraph if sentence is None else sentence[0]).removesuffix(".")


def is_shown(path: Path) -> bool:
    return path.name != "__main__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())


def children(folder: Path) -> list[Path]:
    """A folder's modules and then its packages, each in the order of the alphabet."""
    found = [path for path in folder.iterdir() if is_shown(path) and path.name != "__init__.py"]
    return sorted(found, key=lambda path: (path.is_dir(), path.name))


def lines_of(folder: Path, depth: int) -> Iterator[str]:
    """The rooms below a folder, and the modules that stand beside them at the first level."""
    yield line("  " * (depth - 1) + folder.name + "/", first_sentence(folder))
    for child in children(folder):
        if child.is_dir():
            yield from lines_of(child, depth + 1)
        elif depth == 1:
            yield line("  " + child.name, first_sentence(child))


def line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}} {text}"


def tree() -> str:
    beside = [line(name, text) for name, text in BESIDE.items()]
    rooms = [row for package in PACKAGES for row in lines_of(ROOT / package, 1)]
    return "\n".join([*beside[:3], *rooms, *beside[3:]])


def modules() -> str:
    """Every module, room by room."""
    rooms = [room for package in PACKAGES for room in (ROOT / package, *sorted((ROOT / package).rglob("*/")))]
    parts = []
    for room in (room for room in rooms if (room / "__init__.py").exists()):
        rows = [f"| `{child.name}` | {first_sentence(child)} |" for child in children(room) if not child.is_dir()]
        parts.append(f"## {room.relative_to(ROOT)}\n\n{first_sentence(room)}.\n")
        if rows:
            parts.append("| module | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return HEADING + "\n".join(parts)


def with_tree(page: str) -> str:
    """The page with the tree as it is now."""
    return re.sub(r"(?<=^```tree\n).*?(?=^```$)", lambda _: tree() + "\n", page, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    wanted = {README: with_tree(README.read_text(encoding="utf-8")), MODULES: modules()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            sys.exit(f"{names}: not what the docstrings say. Run: python scripts/tree.py")
        return
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main()

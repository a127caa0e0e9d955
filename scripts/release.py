"""Builds the wheel and the source distribution into dist/, with their SHA-256 hashes beside them.

    python scripts/release.py            whatever lies here, to try it
    python scripts/release.py --tagged   for everybody: refused unless version, tag and changelog say the same

The version is that of `AGENT` in p2pnet/config.py, and nowhere else. A build of the same files is the same to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"
HASHES = "SHA256SUMS"


class Unfit(Exception):
    """What lies here is not what a release of this version would be."""


def newest_entry(changelog: str) -> tuple[str, str]:
    """The version of the changelog's first entry, and its date or `unreleased`. Raises Unfit."""
    entry = re.search(r"^## (\S+), (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    if entry is None:
        raise Unfit("The changelog has no entry of the form `## 0.1.0, 2026-01-31`.")
    return entry[1], entry[2]


def check_release(version: str, changelog: str, tags: Sequence[str], changed: str) -> None:
    """Raises Unfit unless the tags at this commit, the changelog and the files all are of this version."""
    noted, day = newest_entry(changelog)
    if changed:
        raise Unfit(f"Files are not as they were committed:\n{changed}")
    if noted != version or day == "unreleased":
        raise Unfit(f"The changelog begins with {noted}, {day}. Write `## {version}, ` and the day of the release.")
    if f"v{version}" not in tags:
        raise Unfit(f"No tag v{version} is at this commit. Make it with `git tag v{version}`, or change AGENT.")


def build(folder: Path) -> list[Path]:
    """Wheel and source distribution, in a folder that holds nothing else but their hashes."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    built = sorted(folder.iterdir())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in built]
    (folder / HASHES).write_text("".join(lines))
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tagged", action="store_true", help="refuse what is not the tagged commit of its version")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="where to; what is there goes")
    options = parser.parse_args(arguments)
    try:
        if options.tagged:
            check_release(_version(), CHANGELOG.read_text(), _git("tag", "--points-at", "HEAD").split(), _git_changes())
        for path in [*build(options.folder), options.folder / HASHES]:
            print(path)
    except (Unfit, subprocess.CalledProcessError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _version() -> str:
    shown = subprocess.run([sys.executable, "-m", "hatchling", "version"], cwd=ROOT, check=True, capture_output=True)
    return shown.stdout.decode().strip()


def _git_changes() -> str:
    return _git("status", "--porcelain", "--untracked-files=normal")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout.decode().strip()


if __name__ == "__main__":
    sys.exit(main())

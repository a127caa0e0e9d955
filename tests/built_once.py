"""What takes long to build is built once in a run, by whichever of its processes is first, and copied from then on."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class BuiltOnce:
    """A folder that all processes of a run share. Without one each build is a new one."""

    def __init__(self) -> None:
        self.shared: Path | None = None

    def copy(self, name: str, build: Callable[[Path], object], to: Path) -> None:
        """Have in `to` what `build` makes in a folder: the caller may change it."""
        if self.shared is None:
            build(to)
            return
        self.shared.mkdir(exist_ok=True)
        with (self.shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = self.shared / name
            if not made.exists():
                build(made.with_suffix(".making"))
                made.with_suffix(".making").rename(made)
        shutil.copytree(made, to, dirs_exist_ok=True)


built_once = BuiltOnce()

"""A package whose `__init__` is put off: what lies below it is imported by itself, and the rest when it is wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PACKAGE = {
    "big/__init__.py": 'import big.heavy\nfrom big.light import LIGHT\n__version__ = "1"\n',
    "big/heavy.py": "HEAVY = 1\n",
    "big/light.py": "import big.within.deep as deep\nLIGHT = deep.DEEP\n",
    "big/within/__init__.py": "import big.heavy\n",
    "big/within/deep.py": "DEEP = 3\n",
}
"""`big` imports `heavy`, which nobody needs who wants `light`; and so does a package below it."""

FIRST = """
import sys
from p2pnet.network.hivemind.deferred import deferred
with deferred("big", "big.within"):
    from big.light import LIGHT
assert LIGHT == 3 and "big.heavy" not in sys.modules
"""


def run(folder: Path, script: str) -> str:
    """In an interpreter of its own, since modules stay. Returns what it has said when it failed."""
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    script = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return done.stderr


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "import big\nassert big.light.LIGHT == 3 and 'big.heavy' not in sys.modules",
        "import big\nassert big.heavy.HEAVY == 1 and big.__version__ == '1'",
        "from big import LIGHT, heavy\nassert heavy.HEAVY == 1 and type(sys.modules['big']) is type(sys)",
        "import big.heavy\nassert big.__version__ == '1'",
        "with deferred('big'):\n    import big\nassert big.LIGHT == 3",
        "import big.within\nassert not hasattr(big.within, 'x') and 'big.heavy' in sys.modules",
    ],
)
def test_the_rest_comes_when_it_is_wanted(tmp_path: Path, rest: str) -> None:
    assert run(tmp_path, FIRST + rest) == ""


def test_what_was_imported_before_stays(tmp_path: Path) -> None:
    script = "import big\nfrom p2pnet.network.hivemind.deferred import deferred\nwith deferred('big'):\n    import big"
    assert run(tmp_path, script + "\nassert big.heavy.HEAVY == 1 and type(big) is type(sys)") == ""


def test_one_that_fails_says_so_each_time(tmp_path: Path) -> None:
    script = f"""{FIRST}
import big
sys.modules["big.heavy"] = None
for _ in range(2):
    try:
        big.HEAVY
    except ModuleNotFoundError:
        continue
    raise AssertionError("it was there")
"""
    assert run(tmp_path, script) == ""


def test_one_that_is_not_there_is_missed_by_its_name(tmp_path: Path) -> None:
    script = "from p2pnet.network.hivemind.deferred import deferred\nwith deferred('nobody'):\n    import nobody"
    assert run(tmp_path, script).endswith("ModuleNotFoundError: No module named 'nobody'\n")


def test_hivemind_is_whole_for_who_asks(tmp_path: Path) -> None:
    script = """
import p2pnet.network.hivemind.bindings
assert "torch" not in sys.modules
import hivemind
assert hivemind.DHT and hivemind.p2p.P2P is p2pnet.network.hivemind.bindings.P2P and "torch" in sys.modules
"""
    assert run(tmp_path, script) == ""

"""Images of a few bytes, for tests: real files where they are whole, and no more than heads where those will do."""

from __future__ import annotations

import zlib
from base64 import b64encode
from struct import pack


def png(width: int = 1, height: int = 1, shade: int = 0) -> bytes:
    """A grey square, whole."""
    rows = (b"\0" + bytes([shade]) * width) * height
    head = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def png_head(width: int, height: int) -> bytes:
    """One that claims to be this large."""
    return png()[:16] + pack(">II", width, height) + png()[24:]


def jpeg(width: int, height: int, frame: int = 0xC0, before: bytes = b"") -> bytes:
    """The beginning of one, up to its size."""
    written_by_cameras = b"\xff\xe1" + pack(">H", 8) + b"Exif\0\0"
    size = bytes([0xFF, frame]) + pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + written_by_cameras + before + size + b"\xff\xd9"


def webp(form: bytes, width: int, height: int) -> bytes:
    """The beginning of one: lossy, lossless or extended."""
    bodies = {
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + pack("<HH", width, height),
        b"VP8L": b"\x2f" + pack("<I", (width - 1) | (height - 1) << 14),
        b"VP8X": b"\0\0\0\0" + pack("<I", width - 1)[:3] + pack("<I", height - 1)[:3],
    }
    body = form + pack("<I", len(bodies[form])) + bodies[form]
    return b"RIFF" + pack("<I", 4 + len(body)) + b"WEBP" + body


GIF_HEAD = b"GIF89a" + pack("<HHBBB", 2, 3, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
GIF_FRAME = b"\x21\xf9\4\0\0\0\0\0" + b"\x2c" + pack("<HHHHB", 0, 0, 2, 3, 0) + b"\2\3\x44\x02\x05\0"


def gif(frames: int = 1) -> bytes:
    """Two pixels wide and three high; moving with several frames."""
    return GIF_HEAD + frames * GIF_FRAME + b"\x3b"


def base64(image: bytes) -> str:
    return b64encode(image).decode()


def data_url(image: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64(image)}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

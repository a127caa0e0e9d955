"""Says what an image is by its own first bytes: its kind, and how large it is. Nothing is decoded here.

PNG (ISO 15948), JPEG (ITU T.81), WebP (RFC 9649) and GIF (89a). Knows nothing of where images come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_IMAGE_BYTES, MAX_IMAGES, ChatPrompt, ImagePart, Prompt

MAX_IMAGE_PIXELS = 1 << 24
"""A phone's photo has 12 million, and no model looks at more than a few. A file of a few kilobytes can claim billions,
and whoever decodes it would need gigabytes."""

IMAGE_TOKENS = 1024
"""What an image takes of a prompt, roughly: models make some 250 to 4,000 tokens of one. Only for estimates."""

KINDS = "PNG, JPEG, WebP or GIF"

MAX_PIECES = 1 << 15
"""Segments of a JPEG before its size, or blocks of a GIF, that are passed over: an image of `MAX_IMAGE_BYTES` has
10,000 of usual length. To pass over more would hold up whoever looks."""

MAX_EXTENSIONS = 8
"""Of a GIF before its first frame: a comment, how often it is played, how long the frame is shown."""

_SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of a JPEG that begin a frame, and say its size."""
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Its markers that have no length."""


@dataclass(frozen=True)
class ImageKind:
    """A MIME type such as `image/png`, and the size in pixels."""

    mime: str
    width: int
    height: int


def image_kind(data: bytes) -> ImageKind:
    """What these bytes are, whatever they are said to be. Raises InvalidRequest, which says what would do."""
    try:
        found = _read(data)
    except IndexError:
        found = None
    if found is None:
        raise InvalidRequest(f"This is no image that can be read here: send {KINDS}.", "images")
    if not found.width or not found.height:
        raise InvalidRequest("The image says that it has no pixels: it is damaged.", "images")
    if found.width * found.height > MAX_IMAGE_PIXELS:
        raise InvalidRequest(
            f"The image has {found.width} x {found.height} pixels, and at most {MAX_IMAGE_PIXELS} are taken: make it "
            "smaller.",
            "images",
        )
    return found


def images_of(prompt: Prompt) -> Iterator[ImagePart]:
    """All images of a prompt, in their order."""
    for message in prompt.messages if isinstance(prompt, ChatPrompt) else ():
        yield from message.images


def image_hash(image: ImagePart) -> bytes:
    """Names an image: SHA-256 of its bytes."""
    return sha256(image.data).digest()


def check_images(prompt: Prompt) -> None:
    """What the types of the wire do not say: how many images there are, what they are, and where they stand. Raises
    InvalidRequest."""
    for message in prompt.messages if isinstance(prompt, ChatPrompt) else ():
        places = [image.at for image in message.images]
        if places != sorted(places) or (places and places[-1] > len(message.content)):
            raise InvalidRequest(
                "The images of a message stand in its text, in the order in which they come.", "images"
            )
    for number, image in enumerate(images_of(prompt), 1):
        if number > MAX_IMAGES:
            raise InvalidRequest(f"A request has at most {MAX_IMAGES} images: leave some out.", "images")
        image_kind(image.data)


def check_size(size: int) -> None:
    """Raises InvalidRequest for an image of too many bytes."""
    if size > MAX_IMAGE_BYTES:
        raise InvalidRequest(
            f"The image has {size} bytes, and at most {MAX_IMAGE_BYTES} are taken: make it smaller, or send it as JPEG "
            "or WebP.",
            "images",
        )


def first_frame(data: bytes) -> bytes:
    """A GIF without the frames after its first one, which is all that models look at; anything else as it is. Raises
    InvalidRequest for a GIF that ends before its first frame does."""
    if not data.startswith((b"GIF87a", b"GIF89a")):
        return data
    try:
        end = _first_frame_end(data)
    except IndexError as error:
        raise InvalidRequest("The GIF is cut: it ends before its first frame does.", "images") from error
    return data[:end] + b"\x3b"


def _read(data: bytes) -> ImageKind | None:
    """Raises IndexError where it is cut."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return ImageKind("image/png", _big(data, 16, 4), _big(data, 20, 4))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ImageKind("image/gif", _little(data, 6, 2), _little(data, 8, 2))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> ImageKind | None:
    """Its size is in the first frame, behind whatever a camera has written before it."""
    at = 2
    for _ in range(MAX_PIECES):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0xD9, 0xDA):  # its end, or pixels, and no size before them
            return None
        if marker in _SIZED:
            return ImageKind("image/jpeg", _big(data, at + 7, 2), _big(data, at + 5, 2))
        if marker == 0xFF:  # a byte that fills
            at += 1
        else:
            at += 2 if marker in _BARE else 2 + max(2, _big(data, at + 2, 2))
    return None


def _webp(data: bytes) -> ImageKind | None:
    form = data[12:16]
    if form == b"VP8X":
        return ImageKind("image/webp", 1 + _little(data, 24, 3), 1 + _little(data, 27, 3))
    if form == b"VP8L" and data[20] == 0x2F:
        bits = _little(data, 21, 4)
        return ImageKind("image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if form == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return ImageKind("image/webp", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    return None


def _first_frame_end(data: bytes) -> int:
    """Where the pixels of a GIF's first frame end. Raises IndexError where it is cut."""
    at = 13 + _color_table(data[10])
    for _ in range(MAX_EXTENSIONS):
        if data[at] != 0x21:
            break
        at = _blocks_end(data, at + 2)  # a label, then blocks
    if data[at] != 0x2C:
        raise IndexError
    return _blocks_end(data, at + 11 + _color_table(data[at + 9]))


def _color_table(flags: int) -> int:
    """How many bytes it has."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    for _ in range(MAX_PIECES):
        if not data[at]:
            return at + 1
        at += 1 + data[at]
    raise IndexError


def _big(data: bytes, at: int, size: int) -> int:
    return _number(data, at, size, "big")


def _little(data: bytes, at: int, size: int) -> int:
    return _number(data, at, size, "little")


def _number(data: bytes, at: int, size: int, order: Literal["big", "little"]) -> int:
    data[at + size - 1]  # raises IndexError where it is cut
    return int.from_bytes(data[at : at + size], order)

"""Reads images out of bodies, where they are base64 in JSON. Knows nothing of any dialect.

Nobody here fetches anything: an address would make a gateway or a worker ask whatever host a stranger names.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any

from p2pnet.errors import InvalidRequest
from p2pnet.images import check_images, check_size, first_frame, image_kind
from p2pnet.messages import GenerateRequest

INSTEAD = "send the image itself, as data:image/png;base64,..."

_DATA_URL = re.compile(r"data:[^,]{0,128};base64,", re.IGNORECASE)


@dataclass
class Said:
    """What a message says, piece by piece."""

    text: str = ""
    images: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, data: bytes) -> None:
        """An image, after what has been said so far."""
        self.images.append({"data": data, "at": len(self.text)})

    @property
    def fields(self) -> dict[str, Any]:
        """Those of `messages.Message`, still to be checked."""
        return {"content": self.text, "images": self.images} if self.images else {"content": self.text}


def with_checked_images(request: GenerateRequest) -> GenerateRequest:
    """The request, if there are no more images in it than a worker takes. Raises InvalidRequest."""
    check_images(request.prompt)
    return request


def image_of_url(url: str, where: str) -> bytes:
    """The image in a data URL. Raises InvalidRequest for any other address, and for what is no image."""
    head = _DATA_URL.match(url)
    if head is None:
        kind = "this data URL is not in base64" if url[:5].lower() == "data:" else "images are not fetched here"
        raise InvalidRequest(f"{where}: {kind}; {INSTEAD}", where)
    return image_of_base64(url[head.end() :], where)


def image_of_base64(text: str, where: str) -> bytes:
    """The image, whatever it is said to be; of a GIF the first frame. Raises InvalidRequest, which names `where`."""
    try:
        packed = "".join(text.split())
        check_size(len(packed) * 3 // 4 - 2)  # before anything is made of it
        data = b64decode(packed + "=" * (-len(packed) % 4), validate=True)
        check_size(len(data))
        image_kind(data)
        return first_frame(data)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}", where) from error
    except ValueError as error:
        raise InvalidRequest(f"{where}: this is not base64; encode the image's bytes anew", where) from error

"""What a request takes of the memory while it waits."""

from __future__ import annotations

from gateway.dispatch.request_size import size_of
from p2pnet.messages import ChatPrompt, GenerateRequest, ImagePart, Message


def test_an_image_weighs_what_it_has_of_bytes() -> None:
    def size(*images: ImagePart) -> int:
        return size_of(GenerateRequest("r1", "tiny", ChatPrompt((Message("user", "", images=images),))))

    assert 1 << 20 < size(ImagePart(bytes(1 << 20))) - size() < (1 << 20) + 1024

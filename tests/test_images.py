"""What an image is by its own bytes, and what is refused: tables."""

from __future__ import annotations

import pytest

from p2pnet.errors import InvalidRequest
from p2pnet.images import (
    MAX_EXTENSIONS,
    MAX_IMAGE_PIXELS,
    MAX_PIECES,
    ImageKind,
    check_images,
    check_size,
    first_frame,
    image_kind,
    images_of,
)
from p2pnet.messages import MAX_IMAGE_BYTES, MAX_IMAGES, ChatPrompt, ImagePart, Message, TextPrompt
from tests.images import GIF_FRAME, GIF_HEAD, gif, jpeg, png, png_head, webp

KINDS = {
    "png": (png(3, 2), ImageKind("image/png", 3, 2)),
    "the largest": (png_head(4096, MAX_IMAGE_PIXELS // 4096), ImageKind("image/png", 4096, 4096)),
    "jpeg": (jpeg(640, 480), ImageKind("image/jpeg", 640, 480)),
    "a progressive jpeg": (jpeg(640, 480, 0xC2), ImageKind("image/jpeg", 640, 480)),
    "a jpeg with bytes that fill": (jpeg(1, 2, before=b"\xff\xff\xff\xfe\0\3a"), ImageKind("image/jpeg", 1, 2)),
    "a jpeg with tables first": (jpeg(1, 2, before=b"\xff\xc4\0\3a\xff\x01"), ImageKind("image/jpeg", 1, 2)),
    "lossy webp": (webp(b"VP8 ", 320, 200), ImageKind("image/webp", 320, 200)),
    "lossless webp": (webp(b"VP8L", 320, 200), ImageKind("image/webp", 320, 200)),
    "extended webp": (webp(b"VP8X", 320, 200), ImageKind("image/webp", 320, 200)),
    "gif": (gif(), ImageKind("image/gif", 2, 3)),
    "an old gif": (b"GIF87a" + gif()[6:], ImageKind("image/gif", 2, 3)),
}


@pytest.mark.parametrize(("data", "kind"), KINDS.values(), ids=KINDS)
def test_an_image_says_itself_what_it_is(data: bytes, kind: ImageKind) -> None:
    assert image_kind(data) == kind


NO_IMAGES = {
    "nothing": b"",
    "text": b"data:image/png;base64,",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7",
    "bmp": b"BM" + bytes(60),
    "sound in webp's envelope": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    "a webp of a form that nobody knows": b"RIFF\x24\0\0\0WEBPVP9 " + bytes(40),
    "a png without its head": b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\0\1\0\0\0\1",
    "a jpeg without a size": b"\xff\xd8\xff\xda\0\2" + bytes(40),
    "a jpeg that only fills": b"\xff\xd8" + b"\xff" * (MAX_PIECES + 20),
    "a jpeg of other bytes": b"\xff\xd8\xff\xe0\0\2" + bytes(40),
    "no pixels": png_head(0, 5),
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_none_is_refused_with_what_would_do(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"PNG, JPEG, WebP or GIF|is damaged"):
        image_kind(data)


HEAD_BYTES = {"png": 24, "jpeg": 21, "lossy webp": 30, "lossless webp": 25, "extended webp": 30, "gif": 10}


@pytest.mark.parametrize("name", HEAD_BYTES)
def test_each_cut_of_a_head_is_refused(name: str) -> None:
    data, kind = KINDS[name]
    for length in range(HEAD_BYTES[name]):
        with pytest.raises(InvalidRequest):
            image_kind(data[:length])
    assert image_kind(data[: HEAD_BYTES[name]]) == kind


def test_a_small_file_that_claims_to_be_huge_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"65535 x 65535 pixels, and at most 16777216 .* make it smaller"):
        image_kind(png_head(65535, 65535))


def test_too_many_bytes_are_refused() -> None:
    check_size(MAX_IMAGE_BYTES)
    with pytest.raises(InvalidRequest, match="has 2621441 bytes, and at most 2621440 are taken: make it smaller"):
        check_size(MAX_IMAGE_BYTES + 1)


FRAMES = {
    "one": (gif(1), gif(1)),
    "three": (gif(3), gif(1)),
    "with something behind": (gif(2) + b"more", gif(1)),
    "without an end": (gif(1)[:-1], gif(1)),
    "of colours of its own": (
        GIF_HEAD + GIF_FRAME[:17] + b"\x80" + bytes(6) + GIF_FRAME[18:] + GIF_FRAME + b";",
        GIF_HEAD + GIF_FRAME[:17] + b"\x80" + bytes(6) + GIF_FRAME[18:] + b";",
    ),
    "no gif": (png(), png()),
}


@pytest.mark.parametrize(("data", "first"), FRAMES.values(), ids=FRAMES)
def test_the_first_frame_is_all_that_is_left_of_a_gif(data: bytes, first: bytes) -> None:
    assert first_frame(data) == first


@pytest.mark.parametrize(
    "data",
    [
        gif()[:12],
        GIF_HEAD,
        gif()[:-2],
        GIF_HEAD + b";",
        GIF_HEAD[:19] + b"\x21\xfe\0" * (MAX_EXTENSIONS + 1) + GIF_FRAME,
        GIF_HEAD + GIF_FRAME[:-1] + b"\1a" * MAX_PIECES,
    ],
)
def test_a_gif_without_a_whole_frame_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="The GIF is cut"):
        first_frame(data)


def saying(text: str, *images: ImagePart) -> ChatPrompt:
    return ChatPrompt((Message("system", "be brief"), Message("user", text, images=images)))


def test_images_stand_in_the_text_of_their_messages() -> None:
    prompt = saying("ab", ImagePart(png()), ImagePart(gif(), 1), ImagePart(gif(), 1), ImagePart(png(), 2))
    check_images(prompt)
    assert [image.at for image in images_of(prompt)] == [0, 1, 1, 2]
    check_images(TextPrompt("a"))
    assert list(images_of(TextPrompt("a"))) == []


WRONG = {
    "behind the text": (saying("ab", ImagePart(png(), 3)), "stand in its text"),
    "in another order": (saying("ab", ImagePart(png(), 2), ImagePart(png(), 1)), "in the order"),
    "too many": (
        ChatPrompt((Message("user", "", images=(ImagePart(png()),) * MAX_IMAGES),) * 2),
        "at most 16 images: leave some out",
    ),
    "no image": (saying("", ImagePart(b"hi")), "send PNG, JPEG, WebP or GIF"),
}


@pytest.mark.parametrize(("prompt", "words"), WRONG.values(), ids=WRONG)
def test_what_the_types_do_not_say_is_checked(prompt: ChatPrompt, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        check_images(prompt)
    assert refused.value.param == "images"

"""Frames: golden bytes, each fed whole, byte by byte and with more behind it, and every way to break one."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import (
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_TOKENS_LIMIT,
    Accepted,
    ChatPrompt,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    ImagePart,
    Load,
    Measure,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.wire.codec import (
    MAX_EVENT_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    FrameDecoder,
    encode_frame,
    event_decoder,
    request_decoder,
)
from tests.depth import examples

DIGEST = "sha256:" + "ab" * 32
PACKED_DIGEST = b"\xd9\x47" + DIGEST.encode()

REQUEST_HEAD = b"\xa4type\xa8generate\xaarequest_id\xa2r1\xa5model\xa4tiny\xa6prompt"
USAGE = b"\xa5usage\x82\xadprompt_tokens\x03\xb1completion_tokens\x02"

GOLDEN: dict[str, tuple[GenerateRequest | Event, bytes]] = {
    "a text request": (
        GenerateRequest("r1", "tiny", TextPrompt("Hi")),
        b"\x00\x00\x00\x44\xde\x00\x04" + REQUEST_HEAD + b"\x82\xa4type\xa4text\xa4text\xa2Hi",
    ),
    "a token request": (
        GenerateRequest("r1", "tiny", TokenPrompt((1, 300)), max_tokens=1),
        b"\x00\x00\x00\x59\xde\x00\x05" + REQUEST_HEAD + b"\x82\xa4type\xa6tokens\xa9token_ids\x92\x01\xcd\x01\x2c"
        b"\xaamax_tokens\x01",
    ),
    "a chat request with everything": (
        GenerateRequest(
            "r1",
            "tiny",
            ChatPrompt((Message("user", "é"),)),
            Sampling(seed=7, temperature=0.0),
            max_tokens=16,
            stop=("\n\n",),
            stop_token_ids=(2,),
            ignore_eos=True,
            digest=DIGEST,
        ),
        b"\x00\x00\x01\x03\xde\x00\x0a"
        + REQUEST_HEAD
        + b"\x82\xa4type\xa4chat\xa8messages\x91\x82\xa4role\xa4user\xa7content\xa2\xc3\xa9"
        + b"\xa8sampling\x82\xa4seed\x07\xabtemperature\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        + b"\xaamax_tokens\x10\xa4stop\x91\xa2\n\n\xaestop_token_ids\x91\x02\xaaignore_eos\xc3\xa6digest"
        + PACKED_DIGEST,
    ),
    "a chat request with images": (
        GenerateRequest(
            "r1", "tiny", ChatPrompt((Message("user", "Hi", images=(ImagePart(b"G"), ImagePart(b"P", 2))),))
        ),
        b"\x00\x00\x00\x7a\xde\x00\x04"
        + REQUEST_HEAD
        + b"\x82\xa4type\xa4chat\xa8messages\x91\x83\xa4role\xa4user\xa7content\xa2Hi"
        + b"\xa6images\x92\x81\xa4data\xc4\x01G\x82\xa4data\xc4\x01P\xa2at\x02",
    ),
    "accepted": (Accepted(3), b"\x00\x00\x00\x1e\x82\xa4type\xa8accepted\xadprompt_tokens\x03"),
    "accepted with everything": (
        Accepted(3, DIGEST, Load(1, 0, 8)),
        b"\x00\x00\x00\x84\x84\xa4type\xa8accepted\xadprompt_tokens\x03\xa6digest"
        + PACKED_DIGEST
        + b"\xa4load\x82\xa7running\x01\xa5slots\x08",
    ),
    "a delta": (
        TextDelta("Hi", (5, 6)),
        b"\x00\x00\x00\x21\x83\xa4type\xa5delta\xa4text\xa2Hi\xa9token_ids\x92\x05\x06",
    ),
    "a delta with a logprob": (
        TextDelta("a", (5,), choice=1, logprobs=(TokenLogprob(5, b"a", -0.5, (TopLogprob(5, b"a", -0.5),)),)),
        b"\x00\x00\x00\x4e\x85\xa4type\xa5delta\xa4text\xa1a\xa9token_ids\x91\x05\xa6choice\x01\xa8logprobs\x91"
        + b"\x94\x05\xc4\x01a\xcb\xbf\xe0\x00\x00\x00\x00\x00\x00"
        + b"\x91\x93\x05\xc4\x01a\xcb\xbf\xe0\x00\x00\x00\x00\x00\x00",
    ),
    "a delta of a tool call": (
        TextDelta(token_ids=(5,), tool_calls=(ToolCallDelta(0, "c1", "now", "{}"),)),
        b"\x00\x00\x00\x48\x83\xa4type\xa5delta\xa9token_ids\x91\x05\xaatool_calls\x91"
        + b"\x84\xa5index\x00\xa2id\xa2c1\xa4name\xa3now\xa9arguments\xa2{}",
    ),
    "an empty delta": (TextDelta(), b"\x00\x00\x00\x0c\x81\xa4type\xa5delta"),
    "finished": (
        Finished("stop", Usage(3, 2)),
        b"\x00\x00\x00\x44\x83\xa4type\xa8finished\xa6reason\xa4stop" + USAGE,
    ),
    "finished with load": (
        Finished("length", Usage(3, 2), Load(0, 0, 8)),
        b"\x00\x00\x00\x53\x84\xa4type\xa8finished\xa6reason\xa6length" + USAGE + b"\xa4load\x81\xa5slots\x08",
    ),
    "finished with speed": (
        Finished("stop", Usage(3, 2), Load(decode_tokens_per_s=Measure(12.5, 7))),
        b"\x00\x00\x00\x69\x84\xa4type\xa8finished\xa6reason\xa4stop"
        + USAGE
        + b"\xa4load\x81\xb3decode_tokens_per_s\x92\xcb\x40\x29\x00\x00\x00\x00\x00\x00\x07",
    ),
    "failed": (Failed("busy"), b"\x00\x00\x00\x17\x82\xa4type\xa6failed\xa4code\xa4busy"),
    "failed with a message": (
        Failed("busy", "all 8 places"),
        b"\x00\x00\x00\x2c\x83\xa4type\xa6failed\xa4code\xa4busy\xa7message\xacall 8 places",
    ),
}


def decoder_for(message: GenerateRequest | Event) -> FrameDecoder[Any]:
    return request_decoder() if isinstance(message, GenerateRequest) else event_decoder()


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def packed(**fields: Any) -> bytes:
    return frame(msgspec.msgpack.encode(fields))


golden = pytest.mark.parametrize(("message", "data"), GOLDEN.values(), ids=GOLDEN)


@golden
def test_a_message_has_its_golden_bytes(message: GenerateRequest | Event, data: bytes) -> None:
    assert encode_frame(message, MAX_REQUEST_FRAME_BYTES) == data


@golden
def test_fed_whole(message: GenerateRequest | Event, data: bytes) -> None:
    decoder = decoder_for(message)
    assert decoder.feed(data) == [message]
    assert decoder.is_empty


@golden
def test_fed_byte_by_byte(message: GenerateRequest | Event, data: bytes) -> None:
    decoder = decoder_for(message)
    for byte in data[:-1]:
        assert decoder.feed(bytes([byte])) == []
        assert not decoder.is_empty
    assert decoder.feed(data[-1:]) == [message]
    assert decoder.is_empty


@golden
def test_fed_with_more_behind_it(message: GenerateRequest | Event, data: bytes) -> None:
    decoder = decoder_for(message)
    assert decoder.feed(data + data[:7]) == [message]
    assert not decoder.is_empty
    assert decoder.feed(data[7:] + data) == [message, message]
    assert decoder.is_empty


@golden
def test_cut_at_each_byte(message: GenerateRequest | Event, data: bytes) -> None:
    for cut in range(len(data) + 1):
        decoder = decoder_for(message)
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == [message]


def test_a_stream_of_all_events_cut_at_random() -> None:
    events = [message for message, _ in GOLDEN.values() if not isinstance(message, GenerateRequest)]
    data = b"".join(encode_frame(event, MAX_EVENT_FRAME_BYTES) for event in events)
    rng = random.Random(5)
    for _ in range(100):
        cuts = sorted(rng.choices(range(len(data) + 1), k=rng.randrange(12)))
        decoder = event_decoder()
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert [event for piece in pieces for event in decoder.feed(piece)] == events
        assert decoder.is_empty


def test_nothing_makes_nothing() -> None:
    decoder = event_decoder()
    assert decoder.feed(b"") == []
    assert decoder.is_empty


def test_unknown_fields_are_ignored() -> None:
    later = packed(type="delta", text="a", token_ids=[1], colour=[-0.5], note={"deep": [None, True]})
    assert event_decoder().feed(later) == [TextDelta("a", (1,))]


# ---- sizes


@pytest.mark.parametrize(
    ("decoder", "limit"), [(event_decoder, MAX_EVENT_FRAME_BYTES), (request_decoder, MAX_REQUEST_FRAME_BYTES)]
)
@pytest.mark.parametrize("excess", [1, 1 << 20, None])
def test_an_oversized_length_is_refused_before_its_body_comes(decoder: Any, limit: int, excess: int | None) -> None:
    length = 0xFFFFFFFF if excess is None else limit + excess
    with pytest.raises(ProtocolViolation, match=str(length)):
        decoder().feed(length.to_bytes(4, "big"))


def test_a_frame_of_exactly_the_limit_passes() -> None:
    overhead = len(encode_frame(TextDelta("a" * (1 << 15)), 1 << 20)) - 4 - (1 << 15)
    largest = TextDelta("a" * (MAX_EVENT_FRAME_BYTES - overhead))
    data = encode_frame(largest, MAX_EVENT_FRAME_BYTES)
    assert len(data) == 4 + MAX_EVENT_FRAME_BYTES
    assert event_decoder().feed(data) == [largest]


def test_what_the_other_side_would_refuse_is_not_encoded() -> None:
    with pytest.raises(ProtocolViolation):
        encode_frame(TextDelta("a" * MAX_EVENT_FRAME_BYTES), MAX_EVENT_FRAME_BYTES)


def test_the_longest_prompt_of_ids_fits_below_the_size_of_the_largest_ids() -> None:
    largest = GenerateRequest("r1", "tiny", TokenPrompt((40_000,) * MAX_TOKENS_LIMIT))
    assert len(encode_frame(largest, MAX_REQUEST_FRAME_BYTES)) <= MAX_REQUEST_FRAME_BYTES


# ---- garbage

BAD_EVENTS = {
    "an empty frame": frame(b""),
    "nil": frame(b"\xc0"),
    "a list": frame(b"\x90"),
    "an empty map": frame(b"\x80"),
    "text": frame(b"\xa5delta"),
    "HTTP": b"HTTP/1.1 200 OK\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no tag": packed(text="a", token_ids=[]),
    "an unknown tag": packed(type="shutdown"),
    "a request's tag": packed(type="generate", request_id="r", model="m", prompt={"type": "text", "text": ""}),
    "a tag twice": frame(b"\x82\xa4type\xa5delta\xa4type\xa6failed"),
    "null text": packed(type="delta", text=None),
    "text as bytes": packed(type="delta", text=b"a"),
    "text that is not UTF-8": frame(b"\x82\xa4type\xa5delta\xa4text\xa2\xff\xfe"),
    "text with a surrogate": frame(b"\x82\xa4type\xa5delta\xa4text\xa3\xed\xa0\x80"),
    "a negative id": packed(type="delta", text="a", token_ids=[-1]),
    "an id of 32 bits": packed(type="delta", text="a", token_ids=[1 << 31]),
    "ids as text": packed(type="delta", text="a", token_ids="12"),
    "negative usage": packed(type="finished", reason="stop", usage={"prompt_tokens": -1, "completion_tokens": 0}),
    "usage of 64 bits": packed(
        type="finished", reason="stop", usage={"prompt_tokens": 1 << 63, "completion_tokens": 0}
    ),
    "no usage": packed(type="finished", reason="stop"),
    "an unknown reason": packed(type="finished", reason="bored", usage={"prompt_tokens": 1, "completion_tokens": 0}),
    "no prompt tokens": packed(type="accepted"),
    "an accepted digest that is none": packed(type="accepted", prompt_tokens=1, digest="trust me"),
    "negative load": packed(type="accepted", prompt_tokens=1, load={"running": -5}),
    "a long code": packed(type="failed", code="b" * 65),
    "a long message": packed(type="failed", code="busy", message="m" * 2049),
    "no code": packed(type="failed", message="m"),
    "a second message in the frame": frame(msgspec.msgpack.encode(Failed("busy")) * 2),
    "a body cut short": frame(msgspec.msgpack.encode(Failed("busy"))[:-1]),
    "deep nesting": frame(b"\x82\xa4type\xa5delta\xa4junk" + b"\x91" * 60_000),
    "deep nesting in text": frame(b"\x82\xa4type\xa5delta\xa4text" + b"\x91" * 60_000 + b"\xc0"),
    "a list that claims 4 G elements": frame(b"\x83\xa4type\xa5delta\xa4text\xa0\xa9token_ids\xdd\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("data", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_garbage_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        event_decoder().feed(data)


REQUEST: dict[str, Any] = {
    "type": "generate",
    "request_id": "r1",
    "model": "tiny",
    "prompt": {"type": "text", "text": "Hi"},
}


def with_images(*images: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": {"type": "chat", "messages": [{"role": "user", "content": "", "images": list(images)}]}}


BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "an event": {"type": "delta", "text": "a"},
    "no request id": {"request_id": ""},
    "a long request id": {"request_id": "r" * 129},
    "a model with escapes": {"model": "\x1b[2J"},
    "a model that ends in a newline": {"model": "tiny\n"},
    "no model": {"model": ""},
    "a prompt as text": {"prompt": "Hi"},
    "an unknown prompt": {"prompt": {"type": "image", "url": "file:///etc/passwd"}},
    "no messages": {"prompt": {"type": "chat", "messages": []}},
    "too many messages": {"prompt": {"type": "chat", "messages": [{"role": "user", "content": ""}] * 4097}},
    "a message without content": {"prompt": {"type": "chat", "messages": [{"role": "user"}]}},
    "a message without role": {"prompt": {"type": "chat", "messages": [{"role": "", "content": ""}]}},
    "an image of nothing": with_images({"data": b""}),
    "an image as text": with_images({"data": "aGk="}),
    "an image without data": with_images({"at": 0}),
    "an image before the text": with_images({"data": b"a", "at": -1}),
    "an image of too many bytes": with_images({"data": bytes(MAX_IMAGE_BYTES + 1)}),
    "too many images": with_images(*[{"data": b"a"}] * (MAX_IMAGES + 1)),
    "no ids": {"prompt": {"type": "tokens", "token_ids": []}},
    "a negative id": {"prompt": {"type": "tokens", "token_ids": [-1]}},
    "a temperature that is no number": {"sampling": {"temperature": float("nan")}},
    "a boundless temperature": {"sampling": {"temperature": float("inf")}},
    "a negative temperature": {"sampling": {"temperature": -0.1}},
    "top_p 0": {"sampling": {"top_p": 0.0}},
    "top_p over 1": {"sampling": {"top_p": 1.5}},
    "top_p that is no number": {"sampling": {"top_p": float("nan")}},
    "a negative seed": {"sampling": {"seed": -1}},
    "a seed of 64 bits": {"sampling": {"seed": 1 << 63}},
    "repetition penalty 0": {"sampling": {"repetition_penalty": 0.0}},
    "no tokens wanted": {"max_tokens": 0},
    "endless tokens wanted": {"max_tokens": MAX_TOKENS_LIMIT + 1},
    "an empty stop string": {"stop": [""]},
    "a long stop string": {"stop": ["s" * 1025]},
    "too many stop strings": {"stop": ["s"] * 17},
    "too many stop ids": {"stop_token_ids": [1] * 65},
    "a digest that is none": {"digest": "latest"},
}


def test_the_request_that_bad_ones_are_made_from_is_good() -> None:
    assert request_decoder().feed(packed(**REQUEST)) == [GenerateRequest("r1", "tiny", TextPrompt("Hi"))]


@pytest.mark.parametrize("changes", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_a_violation(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        request_decoder().feed(packed(**REQUEST | changes))


# ---- any bytes, any message

FUZZ = settings(derandomize=True, deadline=None, max_examples=examples(200))

IDS = st.lists(st.integers(0, (1 << 31) - 1), max_size=6).map(tuple)
COUNTS = st.integers(0, (1 << 53) - 1)
LOADS = st.builds(Load, COUNTS, COUNTS, COUNTS)
EVENTS = st.one_of(
    st.builds(Accepted, COUNTS, st.none() | st.just(DIGEST), LOADS),
    st.builds(TextDelta, st.text(), IDS),
    st.builds(Finished, st.sampled_from(["stop", "length"]), st.builds(Usage, COUNTS, COUNTS), LOADS),
    st.builds(Failed, st.text(max_size=64), st.text(max_size=100)),
)
REQUESTS = st.builds(
    GenerateRequest,
    st.text(min_size=1, max_size=20),
    st.sampled_from(["tiny", "org/model-7B:q4@1+x"]),
    st.one_of(
        st.builds(TextPrompt, st.text()),
        st.builds(TokenPrompt, IDS.filter(bool)),
        st.builds(
            ChatPrompt, st.lists(st.builds(Message, st.just("user"), st.text()), min_size=1, max_size=3).map(tuple)
        ),
    ),
    st.builds(Sampling, st.integers(0, (1 << 63) - 1), st.floats(0, 100), top_p=st.floats(0.01, 1)),
    st.none() | st.integers(1, MAX_TOKENS_LIMIT),
    st.lists(st.text(min_size=1, max_size=8), max_size=3).map(tuple),
    IDS,
    st.booleans(),
    st.none() | st.just(DIGEST),
)


@FUZZ
@given(st.lists(EVENTS, max_size=4), st.integers(1, 50))
def test_any_events_make_the_round_trip_in_any_pieces(events: list[Event], size: int) -> None:
    data = b"".join(encode_frame(event, MAX_EVENT_FRAME_BYTES) for event in events)
    decoder = event_decoder()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [event for piece in pieces for event in decoder.feed(piece)] == events


@FUZZ
@given(REQUESTS)
def test_any_request_makes_the_round_trip(request: GenerateRequest) -> None:
    assert request_decoder().feed(encode_frame(request, MAX_REQUEST_FRAME_BYTES)) == [request]


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_violation_or_wait_for_more(junk: bytes, is_framed: bool) -> None:
    for decoder in (event_decoder(), request_decoder()):
        try:
            decoder.feed(frame(junk) if is_framed else junk)
        except ProtocolViolation:
            continue
        assert not is_framed or decoder.is_empty

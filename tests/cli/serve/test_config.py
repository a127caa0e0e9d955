"""What the flags of `p2pnet serve` come to, and which of them are refused before anything is opened."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pnet.cli.joining import Joining
from p2pnet.cli.options import Device, Dtype
from p2pnet.cli.serve.config import ServeConfig, config_of
from p2pnet.cli.serve.flags import ServeFlags
from p2pnet.config import DEFAULT_LISTEN, VOLUNTEERS_RELAY, GuardConfig, ModelConfig, NetworkConfig, WorkerConfig
from p2pnet.errors import UsageError
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.checkpoints.quantization import WantedQuantization
from p2pnet.worker.owner.schedule import Schedule
from tests.stories import peer

PEER = f"/ip4/203.0.113.7/tcp/31337/p2p/{peer('bootstrap').peer_id}"
GATEWAY = peer("gateway").peer_id
LISTEN = "/ip4/127.0.0.1/tcp/4001"
SERVER = "http://127.0.0.1:11434"

PLAIN = ServeConfig(
    served="tiny",
    models=("tiny",),
    model=ModelConfig(),
    upstreams=(),
    upstream_kind=None,
    upstream_key=None,
    upstream_names={},
    upstream_readers=frozenset(),
    scripts=(),
    worker=WorkerConfig(),
    schedule=None,
    pause_when_busy_percent=None,
    identity=None,
    listen=DEFAULT_LISTEN,
    announce=(),
    joining=Joining((PEER,)),
    is_behind_nat=None,
    relays_for_others=True,
    metrics_host="127.0.0.1",
    metrics_port=None,
    ready_file=None,
    has_panel=True,
)
"""Of `--model tiny` and the peer to join through."""


def flags(**given: Any) -> ServeFlags:
    return replace(ServeFlags(model=["tiny"], initial_peers=[PEER]), **given)


ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the defaults": ({}, {}),
    "two models": ({"model": ["tiny", "org/model"]}, {"served": "tiny, org/model", "models": ("tiny", "org/model")}),
    "a name for the one model": ({"served_name": ["mine"]}, {"model": ModelConfig({"tiny": "mine"})}),
    "names for a model and for one of a server": (
        {"upstream": [SERVER], "served_name": ["tiny=mine", "/models/a=b.gguf=theirs"]},
        {
            "served": f"tiny, {SERVER}",
            "upstreams": (SERVER,),
            "model": ModelConfig({"tiny": "mine"}),
            "upstream_names": {"/models/a=b.gguf": "theirs"},
        },
    ),
    "models of a server that read images": (
        {"model": [], "upstream": [SERVER], "upstream_images": ["org/vision"]},
        {
            "served": SERVER,
            "models": (),
            "upstreams": (SERVER,),
            "upstream_readers": frozenset({"org/vision"}),
        },
    ),
    "how a model is run": (
        {
            "device": Device.cpu,
            "dtype": Dtype.bfloat16,
            "quantization": WantedQuantization.four_bit,
            "kv_memory": "2GiB",
            "idle_unload_seconds": 60,
        },
        {"model": ModelConfig({}, "cpu", "bfloat16", "4bit", 2 << 30, 60)},
    ),
    "servers alone": (
        {"model": [], "upstream": [SERVER, SERVER + "/v1"], "upstream_kind": Kind.ollama},
        {
            "served": f"{SERVER}, {SERVER}/v1",
            "models": (),
            "upstreams": (SERVER, SERVER + "/v1"),
            "upstream_kind": Kind.ollama,
        },
    ),
    "hours and load": (
        {"schedule": "22:00-07:00", "pause_when_busy": 30.0},
        {"schedule": Schedule.parse("22:00-07:00"), "pause_when_busy_percent": 30.0},
    ),
    "what is given": (
        {"max_concurrency": 2, "drain_seconds": 5.0, "name": "anna"},
        {"worker": WorkerConfig(2, 5.0, GuardConfig(), "anna")},
    ),
    "what one gateway gets": (
        {
            "allow_gateway": [GATEWAY],
            "block_gateway": [GATEWAY],
            "max_per_gateway": 3,
            "max_requests_per_minute": 60,
            "max_request_bytes": "500kB",
            "max_request_seconds": 10.0,
            "no_gateway_quota": True,
        },
        {
            "worker": WorkerConfig(
                guard=GuardConfig(frozenset({GATEWAY}), frozenset({GATEWAY}), 3, 60, 500_000, 10.0, False)
            )
        },
    ),
    "where it is": (
        {"listen": [LISTEN], "announce": [LISTEN], "behind_nat": True, "identity": Path("a.key")},
        {"listen": (LISTEN,), "announce": (LISTEN,), "is_behind_nat": True, "identity": Path("a.key")},
    ),
    "where others can dial it": ({"public": True}, {"is_behind_nat": False}),
    "for itself alone": ({"no_relay": True}, {"relays_for_others": False}),
    "what is told of it": (
        {"metrics_host": "0.0.0.0", "metrics_port": 0, "ready_file": Path("ready.json"), "no_panel": True},
        {"metrics_host": "0.0.0.0", "metrics_port": 0, "ready_file": Path("ready.json"), "has_panel": False},
    ),
    "layers that others lack": (
        {"layers": "auto", "memory": "6GB"},
        {
            "served": "those layers of tiny that others lack",
            "layers": "auto",
            "model": ModelConfig(layers_bytes=6_000_000_000),
        },
    ),
    "some layers": ({"layers": "0:12"}, {"served": "layers 0 to 12 of tiny", "layers": (0, 12)}),
    "no panel beside JSON": ({"log_json": True}, {"has_panel": False}),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_flags_come_to(case: str) -> None:
    given, expected = ACCEPTED[case]
    assert config_of(flags(**given)) == replace(PLAIN, **expected)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "both at once": ({"behind_nat": True, "public": True}, "contradict one another", "Leave both out"),
    "nothing": ({"model": []}, "There is nothing to serve", "--upstream"),
    "one name for two": ({"model": ["tiny", "tiny"], "served_name": ["a"]}, "is the name of one --model", "OLD=NEW"),
    "a name for what is not served": ({"served_name": ["other=a"]}, "no --model is called so", "as --model has it"),
    "two names for one": ({"served_name": ["a", "tiny=b"]}, "gives tiny two names", "one of them"),
    "no new name": ({"served_name": ["tiny="]}, "is the name of one --model", "OLD=NEW"),
    "a name for no model": (
        {"model": [], "upstream": [SERVER], "served_name": ["a"]},
        "is the name of one --model",
        "Leave it out",
    ),
    "unloading what is elsewhere": (
        {"model": [], "upstream": [SERVER], "idle_unload_seconds": 9},
        "--idle-unload-seconds is for models that this worker loads itself",
        "a setting of its own",
    ),
    "the kind of no server": ({"upstream_kind": Kind.openai}, "No upstream server was named", "--upstream"),
    "the images of no server": ({"upstream_images": ["m"]}, "No upstream server was named", "--upstream"),
    "the key of no server": ({"upstream_key_env": "HOME"}, "No upstream server was named", "--upstream"),
    "the load of a server": (
        {"upstream": [SERVER], "pause_when_busy": 50.0},
        "--pause-when-busy cannot tell",
        "--schedule and SIGUSR1",
    ),
    "layers of nothing": ({"model": [], "layers": "0:2"}, "There is nothing to serve", "--model"),
    "layers that are none": ({"layers": "12"}, "--layers 12 names no layers", "FIRST:LAST"),
    "layers of no size": ({"layers": "auto"}, "does not know how much", "--memory 6GB"),
    "layers of a size that is none": ({"layers": "auto", "memory": "much"}, "not a size", "500MB"),
    "memory for named layers": ({"layers": "0:2", "memory": "6GB"}, "--memory is for --layers auto", "--kv-memory"),
    "memory for a whole model": ({"memory": "6GB"}, "--memory is for --layers auto", "--kv-memory"),
    "layers backwards": ({"layers": "4:2"}, "--layers 4:2 names no layers", "FIRST:LAST"),
    "no layer at all": ({"layers": "4:4"}, "--layers 4:4 names no layers", "FIRST:LAST"),
    "layers before the first": ({"layers": "-1:4"}, "--layers -1:4 names no layers", "FIRST:LAST"),
    "layers of two models": ({"model": ["tiny", "org/model"], "layers": "0:2"}, "for one --model", "another worker"),
    "layers beside a server": ({"upstream": [SERVER], "layers": "0:2"}, "for one --model", "another worker"),
    "layers of a file": ({"model": ["org/model:a.gguf"], "layers": "0:2"}, "Layers of GGUF files", "a folder"),
    "layers in fewer bits": (
        {"quantization": WantedQuantization.four_bit, "layers": "0:2"},
        "quantized models are not served by themselves",
        "leave --quantization out",
    ),
    "a name for layers": ({"served_name": ["mine"], "layers": "0:2"}, "A stage has no name", "p2pnet drive"),
    "layers that are unloaded": ({"idle_unload_seconds": 60, "layers": "0:2"}, "keeps its layers", "--idle-unload"),
    "a worker's name": ({"name": "my laptop"}, "cannot be called 'my laptop'", "without spaces"),
    "a folder that is not there": ({"model": ["./no/such"]}, "The folder ./no/such does not exist", "Check the path"),
    "no model's name": ({"model": ["no such model!"]}, "is neither a folder nor a model id", "'tiny'"),
    "a name that is none": ({"served_name": ["my model"]}, "cannot be served as 'my model'", "letters, digits"),
    "no URL": ({"upstream": ["localhost:11434"]}, "not a plain http or https URL", "http://127.0.0.1:11434"),
    "a secret in a URL": ({"upstream": ["http://a:b@host"]}, "user name or password", "--upstream-key-env"),
    "a script that is not there": (
        {"script": [Path("no-such.json")]},
        "script no-such.json cannot be read",
        "--script",
    ),
    "no key": (
        {"upstream": [SERVER], "upstream_key_env": "P2PNET_NO_SUCH_KEY"},
        "P2PNET_NO_SUCH_KEY holds no key",
        "leave out --upstream-key-env if the server needs no key",
    ),
    "no hours": ({"schedule": "at night"}, "at night", "22:00-07:00"),
    "no gateway": ({"allow_gateway": ["me"]}, "'me' is not a gateway's peer id", "12D3KooW"),
    "no gateway to block": ({"block_gateway": ["me"]}, "'me' is not a gateway's peer id", "12D3KooW"),
    "no size of a request": ({"max_request_bytes": "big"}, "'big' is not a size", "500MB"),
    "no size of memory": ({"kv_memory": "big"}, "'big' is not a size", "2GiB"),
    "no address to listen on": ({"listen": ["0.0.0.0:1"]}, "'0.0.0.0:1' is not a multiaddr", "/ip4/"),
    "no address to announce": ({"announce": ["0.0.0.0:1"]}, "'0.0.0.0:1' is not a multiaddr", "/ip4/"),
    "no peer": ({"initial_peers": ["localhost:1"]}, "'localhost:1' is not a multiaddr", "/ip4/"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    given, message, fix = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        config_of(flags(**given))
    assert message in refused.value.message
    assert fix in refused.value.fix


def test_what_drives_chains_is_a_worker_whose_layers_are_elsewhere() -> None:
    assert config_of(flags(), drives=True) == replace(PLAIN, drives=True)
    assert config_of(flags(), drives=True, draft="org/small") == replace(PLAIN, drives=True, draft="org/small")
    with pytest.raises(UsageError, match="A GGUF file makes no drafts"):
        config_of(flags(), drives=True, draft="org/model:a.gguf")
    with pytest.raises(UsageError, match="does not exist"):
        config_of(flags(), drives=True, draft="./nowhere")
    with pytest.raises(UsageError, match="GGUF"):
        config_of(flags(model=["org/model:a.gguf"]), drives=True)


def test_the_models_of_a_script_and_the_key_of_a_server(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"model": "parrot"}, {"model": "vectors", "dimensions": 3}]')
    config = config_of(flags(model=[], script=[script], upstream=[SERVER], upstream_key_env="PATH"))
    assert [scripted.model for scripted in config.scripts] == ["parrot", "vectors"]
    assert config.upstream_key == os.environ["PATH"].strip()
    assert config.served == f"{SERVER}, {script}"


def test_its_network(tmp_path: Path) -> None:
    config = config_of(flags(listen=[LISTEN], announce=[LISTEN], behind_nat=True, no_relay=True))
    key, book = tmp_path / "worker.key", tmp_path / "worker.peers.json"
    assert config.network(key) == NetworkConfig(
        *(key, (LISTEN,), (LISTEN,), (PEER,)),
        address_book=book,
        is_behind_nat=True,
        relays_for_others=False,
        relay=VOLUNTEERS_RELAY,
    )

"""The rooms of the source, lowest first, and which rooms each may import from: data for the tests of layers and docs.

A new room gets its place here first; a new arrow is a decision, not an accident. A room is a folder or a single module,
and its modules may import one another. Rooms of p2pnet are named without it on the right-hand side.
"""

from __future__ import annotations

ROOMS: dict[str, str] = {
    "p2pnet.display": "",
    "p2pnet.errors": "display",
    "p2pnet.config": "",
    "p2pnet.answer_forms": "",
    "p2pnet.thought_tags": "",
    "p2pnet.messages": "answer_forms",
    "p2pnet.images": "errors messages",
    "p2pnet.embed_messages": "messages",
    "p2pnet.score_messages": "messages",
    "p2pnet.tokenize_messages": "messages",
    "p2pnet.rerank_messages": "messages",
    "p2pnet.status_messages": "messages",
    "p2pnet.private_files": "errors",
    "p2pnet.identity": "errors private_files",
    "p2pnet.rate_limit": "",
    "p2pnet.loopback": "",
    "p2pnet.spans": "",
    "p2pnet.flow": "",
    "p2pnet.network": "errors rate_limit",
    "p2pnet.network.libp2p": "errors network",
    "p2pnet.network.dht": "errors rate_limit network network.libp2p",
    "p2pnet.network.reach": "errors rate_limit flow network network.libp2p",
    "p2pnet.network.relaying": "errors config rate_limit network network.libp2p",
    "p2pnet.network.hivemind": (
        "errors config identity flow network network.libp2p network.dht network.reach network.relaying"
    ),
    "p2pnet.entrance": "errors config private_files loopback network",
    "p2pnet.records": "errors messages identity network",
    "p2pnet.receipts": "errors messages identity records",
    "p2pnet.stage_messages": "messages records",
    "p2pnet.claims": "errors identity receipts records",
    "p2pnet.features": "errors answer_forms messages",
    "p2pnet.wire": (
        "errors messages embed_messages score_messages tokenize_messages rerank_messages status_messages receipts "
        "stage_messages"
    ),
    "p2pnet.model_shards": "",
    "p2pnet.directory": "errors model_shards network records",
    "p2pnet.swarm": "errors messages private_files identity flow network records directory",
    "p2pnet.client": (
        "errors config messages embed_messages score_messages tokenize_messages rerank_messages status_messages "
        "network wire"
    ),
    "p2pnet.peer": "config identity network network.hivemind records directory swarm",
    "p2pnet.twins": "errors config network records directory client peer",
    "p2pnet.worker.backend": "messages embed_messages score_messages tokenize_messages rerank_messages records",
    "p2pnet.worker.catalogue": "messages records worker.backend",
    "p2pnet.worker.speed": "messages",
    "p2pnet.worker.checkpoints": "errors messages",
    "p2pnet.worker.text": "display errors answer_forms thought_tags messages tokenize_messages wire worker.checkpoints",
    "p2pnet.worker.embedding": "errors embed_messages records worker.checkpoints",
    "p2pnet.worker.engine": (
        "errors messages score_messages tokenize_messages features wire worker.speed worker.checkpoints worker.text"
    ),
    "p2pnet.worker.speculation": "errors worker.checkpoints worker.engine",
    "p2pnet.worker.spans": "errors worker.checkpoints worker.engine",
    "p2pnet.worker.gguf": "display errors worker.checkpoints worker.engine",
    "p2pnet.worker.stages": (
        "errors config identity flow network records stage_messages wire directory worker.engine worker.spans"
    ),
    "p2pnet.worker.placement": "errors flow identity network directory worker.stages",
    "p2pnet.worker.chains": (
        "errors spans flow network records stage_messages wire worker.engine worker.speculation worker.spans"
    ),
    "p2pnet.worker.backends": (
        "display errors config answer_forms thought_tags messages images embed_messages score_messages "
        "tokenize_messages rerank_messages spans flow network records features wire directory worker.backend "
        "worker.speed worker.checkpoints worker.text worker.embedding worker.engine worker.speculation worker.spans "
        "worker.gguf worker.chains"
    ),
    "p2pnet.worker.observability": (
        "display errors messages status_messages network records worker.catalogue worker.speed"
    ),
    "p2pnet.worker.announcing": (
        "config identity flow network records features wire model_shards directory worker.observability"
    ),
    "p2pnet.worker.streams": (
        "errors config identity messages embed_messages score_messages tokenize_messages rerank_messages "
        "status_messages rate_limit flow network records receipts wire worker.backend worker.observability"
    ),
    "p2pnet.worker.given": "errors private_files flow receipts",
    "p2pnet.worker.owner": "errors flow",
    "p2pnet.worker.serve": (
        "errors config status_messages identity network worker.backend worker.catalogue worker.observability "
        "worker.announcing worker.streams worker.owner"
    ),
    "p2pnet.worker.benchmark": "errors messages worker.backend",
    "p2pnet.doctor": (
        "display errors config messages loopback network network.libp2p network.reach directory client swarm peer"
    ),
    "p2pnet.top": "display errors loopback",
    "gateway.interface": "messages embed_messages tokenize_messages rerank_messages receipts",
    "gateway.shares": "",
    "gateway.database": "errors private_files",
    "gateway.peers": "messages records",
    "gateway.standing": (
        "errors identity flow network records receipts claims gateway.interface gateway.database gateway.peers"
    ),
    "gateway.receipts": (
        "errors identity messages network receipts wire gateway.interface gateway.shares gateway.standing"
    ),
    "gateway.routing": (
        "errors messages images embed_messages tokenize_messages rerank_messages records features wire gateway.peers"
    ),
    "gateway.membership": (
        "errors status_messages rate_limit flow network records wire directory client gateway.interface gateway.peers "
        "gateway.routing"
    ),
    "gateway.queueing": "errors records gateway.interface gateway.shares gateway.routing",
    "gateway.observability": (
        "errors config messages flow network spans records gateway.database gateway.peers gateway.routing"
    ),
    "gateway.audits": (
        "errors config identity messages score_messages network records features wire client gateway.interface "
        "gateway.peers gateway.membership gateway.observability"
    ),
    "gateway.dispatch": (
        "errors config messages embed_messages tokenize_messages rerank_messages flow network records features wire "
        "client gateway.interface gateway.peers gateway.receipts gateway.routing gateway.membership gateway.queueing "
        "gateway.observability gateway.audits"
    ),
    "gateway.serving": (
        "errors messages flow network client gateway.interface gateway.receipts gateway.peers gateway.routing "
        "gateway.membership gateway.queueing gateway.observability gateway.audits gateway.dispatch"
    ),
    "gateway.service": (
        "errors messages images tokenize_messages rerank_messages gateway.interface gateway.receipts gateway.standing "
        "gateway.observability"
    ),
    "gateway.model_names": (
        "errors messages embed_messages tokenize_messages rerank_messages features gateway.interface gateway.routing"
    ),
    "gateway.http": (
        "errors thought_tags messages images embed_messages tokenize_messages rerank_messages private_files rate_limit "
        "flow receipts claims gateway.interface gateway.shares gateway.observability"
    ),
    "gateway.surfaces.anthropic": "errors messages gateway.interface gateway.service gateway.model_names gateway.http",
    "gateway.surfaces.fauxpilot": "errors messages gateway.interface gateway.service gateway.model_names gateway.http",
    "gateway.surfaces.ollama": (
        "errors messages embed_messages features gateway.interface gateway.service gateway.model_names gateway.http"
    ),
    "gateway.surfaces.openai": (
        "errors answer_forms messages embed_messages tokenize_messages rerank_messages flow gateway.interface "
        "gateway.shares gateway.service gateway.model_names gateway.http"
    ),
    "gateway.surfaces.p2pnet": (
        "errors entrance gateway.interface gateway.standing gateway.receipts gateway.observability gateway.http"
    ),
    "gateway.app": (
        "errors gateway.observability gateway.service gateway.http gateway.surfaces.anthropic "
        "gateway.surfaces.fauxpilot gateway.surfaces.ollama gateway.surfaces.openai gateway.surfaces.p2pnet"
    ),
    "gateway.gateway": (
        "errors identity network directory gateway.peers gateway.standing gateway.receipts gateway.routing "
        "gateway.membership gateway.observability gateway.serving gateway.service gateway.model_names gateway.http "
        "gateway.app"
    ),
    "p2pnet.cli": (
        "display errors config answer_forms messages score_messages private_files identity loopback spans flow network "
        "entrance records receipts claims features swarm peer twins worker.backend worker.checkpoints worker.embedding "
        "worker.engine worker.spans worker.gguf worker.stages worker.placement worker.backends worker.observability "
        "worker.streams worker.given worker.owner worker.serve worker.benchmark doctor top gateway.standing "
        "gateway.queueing gateway.audits gateway.dispatch gateway.serving gateway.model_names gateway.http "
        "gateway.gateway"
    ),
    "p2pnet.__main__": "cli",
}


def room_of(module: str) -> str | None:
    """The room that a module belongs to: `p2pnet.wire` for `p2pnet.wire.codec`. None for a package as a whole."""
    fitting = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    return max(fitting, key=len, default=None)


def may_import(room: str) -> frozenset[str]:
    """The rooms, by their full names."""
    return frozenset(name if name in ROOMS else f"p2pnet.{name}" for name in ROOMS[room].split())

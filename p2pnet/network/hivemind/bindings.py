"""What we use of hivemind: its p2pd and the bindings to it. Imported by itself, without hivemind's training half.

`import hivemind` imports torch, which takes 240 MB and a second in each gateway and bootstrap, and which nothing here
uses. Whoever asks hivemind for more gets it, torch with it.
"""

from p2pnet.network.hivemind.deferred import deferred

with deferred("hivemind", "hivemind.utils"):
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, P2PHandlerError
    from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
    from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
    from hivemind.proto import p2pd_pb2
    from hivemind.utils.multiaddr import Multiaddr

__all__ = [
    "P2P",
    "Multiaddr",
    "P2PDaemonError",
    "P2PHandlerError",
    "PeerID",
    "StreamInfo",
    "p2pd_pb2",
    "raise_if_failed",
    "read_pbmsg_safe",
    "write_pbmsg",
]

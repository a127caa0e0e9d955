"""libp2p's own protocols, as far as we speak them ourselves. Bytes only: no sockets."""

"""Speaks libp2p's own protocols, as far as we need them ourselves. Bytes only: no sockets."""

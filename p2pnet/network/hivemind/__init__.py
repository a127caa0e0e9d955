"""Runs the Network over real sockets: hivemind's DHT and libp2p's daemon."""

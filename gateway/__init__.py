"""The gateway: speaks HTTP to clients and libp2p to workers. Holds no model and decides nothing for the network."""

"""A libp2p peer made by hand, over TCP on loopback: what an attacker can write, whose identities cost nothing."""

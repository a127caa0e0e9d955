"""What the gateway's HTTP consists of, whatever the dialect: the socket, the edge, access, replies, errors."""

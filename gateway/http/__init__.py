"""Everything about HTTP that is the same for all dialects: socket, edge, access, replies, errors."""

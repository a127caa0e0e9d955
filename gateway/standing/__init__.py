"""What a peer that has given something may get for it: an earlier turn. Pure; no request asks for it yet."""

"""`p2pnet serve`: its flags, what they come to, and the process of one worker."""

"""How asynchronous generators are read: ahead, side by side, with one timer for many waits."""

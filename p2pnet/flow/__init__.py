"""Reads asynchronous generators ahead and side by side, and times many short waits."""

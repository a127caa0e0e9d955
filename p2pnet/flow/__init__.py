"""Reads asynchronous generators ahead and side by side, times many short waits, and keeps loops going."""

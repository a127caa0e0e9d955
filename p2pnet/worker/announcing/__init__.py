"""What keeps the worker's records in the directory."""

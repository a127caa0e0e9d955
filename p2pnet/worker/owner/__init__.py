"""Owner first: when the machine's owner needs it, or has not lent it at this hour, the worker pauses."""

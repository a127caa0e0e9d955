"""Which worker a request goes to. Decides on data; asks nobody."""

"""What this gateway knows of each worker: its record, its health, its pace."""

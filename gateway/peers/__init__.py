"""What this gateway knows of the workers: their records, their health, their pace; and how it keeps that fresh."""

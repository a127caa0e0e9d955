"""Has answers of workers checked by other workers, and says whose do not come from what they claim to run."""

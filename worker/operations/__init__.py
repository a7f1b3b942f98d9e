"""The remote APIs: how to start a job, ask for it, find it, and read what comes back."""

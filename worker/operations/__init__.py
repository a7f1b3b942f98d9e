"""The remote APIs: how to start a job, poll it, list jobs, and read the answers."""

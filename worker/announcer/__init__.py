"""Tells Celery about imports: task states, results, events and completions."""

"""Metrics and health of a worker, and metrics of the store, over HTTP."""

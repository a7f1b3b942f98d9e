"""The audit: checks whether every promise holds in the store and in the event stream."""

"""Spans of imports, for OpenTelemetry. Only `switch` is imported unless spans are wanted."""

"""The HTTP server: takes requests from programs that have neither Celery nor Redis."""

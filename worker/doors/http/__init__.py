"""The HTTP door: requests from programs that have neither Celery nor Redis."""

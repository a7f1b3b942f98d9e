"""The entry points: Celery tasks and their consumer, forwarded messages, the stream, SQS."""

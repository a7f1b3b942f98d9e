"""The configuration: settings from the environment, and of Celery, Flower, logs and servers."""

"""Configuration: settings from the environment, and those of Celery, Flower, logs and servers."""

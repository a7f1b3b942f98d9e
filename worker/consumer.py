"""Celery's consumer, which outlives every loss of its connection to the broker."""

import structlog
from celery.worker import state
from celery.worker.consumer import Consumer

log = structlog.get_logger()


class LastingConsumer(Consumer):
    """Named by the setting `worker_consumer`.

    kombu 5.7 lets go of a lost connection in two steps. With a message unacknowledged and a BRPOP
    in flight, the first one fails half-way; then the second one, and later each acknowledgement of
    a message of that connection, is an AttributeError that nobody expects and that ends the worker.
    """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the connection that was lost, and of the messages that came over it.

        They come back after the visibility time-out; to admit or to finish twice is harmless.
        """
        for request in tuple(state.reserved_requests):
            request.acknowledged = True
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            log.info("broker.half_closed", error=str(error))

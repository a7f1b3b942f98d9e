"""How the starts of a lane are divided. The scripts take these figures from here."""

from typing import Final

from worker.domain.requests import Priority

PRIORITY_WEIGHTS: Final = {Priority.HIGH: 100, Priority.NORMAL: 10, Priority.LOW: 1}
"""The shares of the priorities, while imports of each are waiting."""

START_SHARE: Final = 0.5
"""The share of starts if starts and polls have one limit, unless it is configured."""

"""Shared by all tests: real servers, workers and commands, and waiting for conditions."""

from tests.support.command_line import CommandLine
from tests.support.producer import Producer, members, producing, storage_members
from tests.support.sandbox import ACCESS_KEY, Sandbox
from tests.support.store import assert_nothing_left_behind
from tests.support.waiting import WAIT_SECONDS, free_port, wait_until
from tests.support.workers import (
    BIN,
    PROJECT,
    StartWorker,
    Worker,
    environment_for,
)

__all__ = [
    "ACCESS_KEY",
    "BIN",
    "PROJECT",
    "WAIT_SECONDS",
    "CommandLine",
    "Producer",
    "Sandbox",
    "StartWorker",
    "Worker",
    "assert_nothing_left_behind",
    "environment_for",
    "free_port",
    "members",
    "producing",
    "storage_members",
    "wait_until",
]

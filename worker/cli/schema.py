"""`amplify-import schema`: prints the contract with other programs as documents."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from worker.contract.asyncapi import asyncapi_document
from worker.contract.openapi import openapi_document
from worker.contract.schemas import DOCUMENTS

ALL: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    **DOCUMENTS,
    "asyncapi": asyncapi_document,
    "openapi": openapi_document,
}


@click.command()
@click.argument("name", metavar="NAME", type=click.Choice([*ALL]))
def schema(name: str) -> None:
    """Print a JSON Schema of what other programs send or receive, or all as one document.

    NAME is `request` (one import), `batch` (a batch message), `event` (an event), `asyncapi` (the
    queue, the streams and the events, as an AsyncAPI 3 document), or `openapi` (what `serve`
    offers by HTTP, as an OpenAPI 3.1 document).
    """
    click.echo(json.dumps(ALL[name](), indent=2, ensure_ascii=False))

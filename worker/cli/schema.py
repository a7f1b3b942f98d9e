"""`amplify-import schema`: prints the contract with other programs as documents."""

import json
from typing import Final

import click

from worker.contract.asyncapi import asyncapi_document
from worker.contract.schemas import DOCUMENTS

ASYNCAPI: Final = "asyncapi"


@click.command()
@click.argument("name", metavar="NAME", type=click.Choice([*DOCUMENTS, ASYNCAPI]))
def schema(name: str) -> None:
    """Print a JSON Schema of what other programs send or receive, or all as AsyncAPI.

    NAME is `request` (one import), `batch` (a batch message), `event` (an event), or `asyncapi`
    (the entry points and the events, as an AsyncAPI 3 document).
    """
    document = asyncapi_document() if name == ASYNCAPI else DOCUMENTS[name]()
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))

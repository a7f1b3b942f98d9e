"""`amplify-import sandbox`: runs the simulated API until it is interrupted."""

import asyncio
import json
import signal

import click

from worker.cli.client import BadInputError, FailedHereError
from worker.sandbox.loader import ScenarioError, load_scenario, shipped_scenarios
from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=4567,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for any.",
)
@click.option(
    "--scenario",
    "scenario_name",
    default="calm",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="A shipped scenario or a TOML file.",
)
@click.option("--list-scenarios", is_flag=True, help="List the shipped scenarios and exit.")
@click.option("--json", "as_json", is_flag=True, help="List each scenario as one line of JSON.")
@click.option("--log-calls", is_flag=True, help="Log every call as it ends.")
def sandbox(
    host: str,
    port: int,
    scenario_name: str,
    *,
    list_scenarios: bool,
    as_json: bool,
    log_calls: bool,
) -> None:
    """Serve the import API locally, with quotas and faults on demand.

    It needs no AWS account. Any credentials work; only the time in a signature is checked.
    """
    if list_scenarios:
        _list(as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json works only with --list-scenarios.")
    _run(scenario_name, host, port, log_calls=log_calls)


def _run(scenario_name: str, host: str, port: int, *, log_calls: bool) -> None:
    try:
        scenario = load_scenario(scenario_name)
        asyncio.run(_serve(scenario, host, port, log_calls=log_calls))
    except ScenarioError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        message = f"Cannot listen on {host}:{port}: {error.strerror}"
        raise FailedHereError(message) from error


def _list(*, as_json: bool) -> None:
    for name in shipped_scenarios():
        description = load_scenario(name).description
        scenario = {"name": name, "description": description}
        click.echo(json.dumps(scenario) if as_json else f"{name:10} {description}")


async def _serve(scenario: Scenario, host: str, port: int, *, log_calls: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stopped.set)
    async with SandboxServer(scenario, host=host, port=port, log_calls=log_calls) as server:
        click.echo(f"Sandbox listening on {server.url}")
        click.echo("Point an SDK at it (any AWS credentials will do):")
        click.echo(f"  export AWS_ENDPOINT_URL_AMPLIFYBACKEND={server.url}")
        click.echo(f"Log of what really happened: {server.url}/sandbox/ledger")
        await stopped.wait()

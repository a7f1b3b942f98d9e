"""Reads scenarios: shipped ones by name, others by path. Errors name the file and the member."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from worker.sandbox.scenario import Scenario

ModelT = TypeVar("ModelT", bound=BaseModel)

_SHIPPED = resources.files("worker.sandbox") / "scenarios"
_SUFFIX = ".toml"


class ScenarioError(ValueError):
    """A scenario is not valid, or can't be read. The message names its source and the member."""


def shipped_scenarios() -> list[str]:
    """Return the names of the scenarios that come with the package, sorted."""
    names = [file.name for file in _SHIPPED.iterdir()]
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def load_scenario(name_or_path: str) -> Scenario:
    """Read a shipped scenario by name, or any TOML file by path.

    Raises:
        ScenarioError: if there is no such file, or it is not a valid scenario.

    """
    shipped = shipped_scenarios()
    is_shipped = name_or_path in shipped
    file = _SHIPPED / f"{name_or_path}{_SUFFIX}" if is_shipped else Path(name_or_path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(
            f"{name_or_path}: cannot be read: {error.strerror} (shipped: {', '.join(shipped)})"
        ) from error
    except ValueError as error:
        raise ScenarioError(f"{name_or_path}: not TOML: {error}") from error
    return parse_model(Scenario, document, name_or_path)


def parse_model(model: type[ModelT], document: Any, source: str) -> ModelT:
    """Return a document as one of the scenario's models. `source` names it in error messages.

    Raises:
        ScenarioError: if the document does not fit the model.

    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            member = ".".join(map(str, problem["loc"]))
            problems.append(f"{member}: {problem['msg']}" if member else problem["msg"])
        raise ScenarioError(f"{source}: {'; '.join(problems)}") from error

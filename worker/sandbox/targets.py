"""Targets: which ones exist, and which ones have a script that fixes outcome and faults."""

from collections import Counter

from worker.sandbox.api import Operation, Target, not_found
from worker.sandbox.scenario import FaultKind, Outcome, Scenario, ScriptedTarget


class Script:
    """The script of a target. It counts how often each of its faults has been used."""

    def __init__(self, settings: ScriptedTarget) -> None:
        self.settings = settings
        self._used: Counter[tuple[Target, int]] = Counter()

    def next_fault(
        self, operation: Operation, target: Target, *, standing: bool
    ) -> FaultKind | None:
        """Return this operation's first fault that is not used up, and count its use."""
        for position, fault in enumerate(self.settings.faults):
            if fault.on is not operation or fault.kind.is_standing is not standing:
                continue
            if fault.times is None or self._used[target, position] < fault.times:
                self._used[target, position] += 1
                return fault.kind
        return None


class Targets:
    """The scenario's apps and scripts. Scripts can be added and replaced at any time."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._scripts: dict[tuple[str, str | None], Script] = {}
        for settings in scenario.targets:
            self.script(settings)

    def script(self, settings: ScriptedTarget) -> None:
        """Add or replace the script of a target. The counts of its faults start at 0."""
        self._scripts[settings.app_id, settings.environment] = Script(settings)

    def script_of(self, target: Target) -> Script | None:
        """Return a target's script. A script of the environment overrides one of the whole app."""
        exact = self._scripts.get((target.app_id, target.environment))
        return exact or self._scripts.get((target.app_id, None))

    def check_exists(self, target: Target) -> None:
        """Check that a target exists.

        Raises:
            ApiError: the answer 404, if its app or its environment does not exist.

        """
        apps = self._scenario.apps
        if target.app_id.startswith(self._scenario.missing_app_prefixes):
            raise not_found("App", target.app_id)
        if apps is not None and target.app_id not in apps:
            raise not_found("App", target.app_id)
        environments = apps[target.app_id] if apps else ()
        if environments and target.environment not in environments:
            raise not_found("Environment", target.environment)
        script = self.script_of(target)
        if script and script.settings.outcome is Outcome.NOT_FOUND:
            if script.settings.environment is None:
                raise not_found("App", target.app_id)
            raise not_found("Environment", target.environment)

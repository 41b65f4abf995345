"""What every step has at hand, and the one way in which a resource is made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import Resource
from cci_plugins.azure.resource_manager import ArmClient, has_terminal_state
from cci_plugins.errors import ProvisioningError

from .compare import lower, matches
from .options import Options
from .progress import Progress, ProgressHandler, State
from .resources import TAG

_REPORT_SECONDS = 15.0  # seconds
# What Azure does not send back: secrets, and what it only takes.
_WRITE_ONLY = frozenset({"secrets"})


@dataclass(slots=True)
class DeploymentRun:
    """One run against one subscription.

    Attributes:
        options: What to provision.
        azure: How Azure is reached.
        arm: Resource Manager.
        tell: Takes the progress.
        changed: Ids of what this run made or changed.
        notes: What the user should know in the end.
    """

    options: Options
    azure: Azure
    arm: ArmClient
    report: ProgressHandler
    changed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_note(self, step: str, message: str) -> None:
        """Say something that is to be known, now and in the end."""
        self.notes.append(message)
        self.report(Progress(step, "note", message))

    async def ensure(
        self,
        resource: Resource,
        *,
        expected_duration: str = "",
        step: str = "",
        retry_role_propagation: bool = False,
    ) -> Mapping[str, Any]:
        """Make a resource as it should be, when it is not so already.

        Args:
            resource: What it should be.
            takes: How long it takes, in words.
            step: What it is called in the progress.
            settles: A refusal may come from a role that is not known everywhere yet.

        Raises:
            ProvisioningError: Azure refused, or something of that name is not ours.
        """
        step = step or resource.kind
        reporter = StepReporter(self.report, step)
        found = await self.wait_until_provisioned(resource, reporter)
        if found is not None:
            _check_ownership(resource, found, step)
            if is_up_to_date(resource, found):
                reporter.report("kept", f"{step} {resource.name} is there")
                return found
        verb = "creating" if found is None else "changing"
        duration = f"; this takes {expected_duration}" if expected_duration else ""
        reporter.report("working", f"{verb} {step} {resource.name}{duration}")
        made = await self._put(resource, reporter, retry_role_propagation=retry_role_propagation)
        self.changed.append(resource.id)
        state: State = "created" if found is None else "updated"
        reporter.report(state, f"{state} {step} {resource.name}")
        return made

    async def wait_until_provisioned(
        self, resource: Resource, reporter: StepReporter
    ) -> Mapping[str, Any] | None:
        """What is there, once nothing is being done to it any more."""
        deadline = time.monotonic() + self.azure.patience.total_seconds()
        while True:
            found = await self.arm.get(resource.id, resource.api_version, step=reporter.step)
            if found is None or has_terminal_state(found):
                return found
            if time.monotonic() > deadline:
                raise ProvisioningError(
                    f"{reporter.step} {resource.name} is still being changed",
                    hint="run the same command again later; it goes on from here",
                    step=reporter.step,
                )
            reporter.report_waiting()
            await anyio.sleep(self.azure.polling.total_seconds())

    async def _put(
        self, resource: Resource, reporter: StepReporter, *, retry_role_propagation: bool
    ) -> Mapping[str, Any]:
        """Send it; again for a while, where a role that was just given may not be known yet."""
        deadline = time.monotonic() + (
            self.azure.settling.total_seconds() if retry_role_propagation else 0
        )
        while True:
            try:
                return await self.arm.put(
                    resource, step=reporter.step, report_waiting=reporter.report_waiting
                )
            except ProvisioningError as error:
                if time.monotonic() > deadline or not _is_propagation_error(error):
                    raise
            reporter.report_waiting("until the new role is known everywhere")
            await anyio.sleep(self.azure.polling.total_seconds())


class StepReporter:
    """The time one step takes, told now and then."""

    def __init__(self, on_progress: ProgressHandler, step: str) -> None:
        self.step = step
        self._on_progress = on_progress
        self._start = time.monotonic()
        self._last_report = self._start

    def report(self, state: State, message: str) -> None:
        """Say what happened."""
        self._on_progress(Progress(self.step, state, message, self._compute_elapsed()))

    def report_waiting(self, until: str = "for Azure") -> None:
        """Say now and then that it still lasts."""
        now = time.monotonic()
        if now - self._last_report >= _REPORT_SECONDS:
            self._last_report = now
            self.report(
                "waiting", f"{self.step}: waiting {until}, {now - self._start:.0f} s so far"
            )

    def _compute_elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._start)


def is_up_to_date(resource: Resource, found: Mapping[str, Any]) -> bool:
    """Whether a resource is as it should be and did not fail."""
    state = lower(found.get("properties")).get("provisioningstate")
    return str(state).lower() not in {"failed", "canceled"} and matches(
        _drop_write_only(resource.body), found
    )


def has_owner_tag(found: Mapping[str, Any], name: str) -> bool:
    """Whether we made a resource."""
    return str(lower(found.get("tags")).get(TAG, "")) == name


def _drop_write_only(value: Any) -> Any:
    """A body without what Azure never sends back."""
    if isinstance(value, Mapping):
        return {
            name: _drop_write_only(item) for name, item in value.items() if name not in _WRITE_ONLY
        }
    return [_drop_write_only(item) for item in value] if isinstance(value, list) else value


def _check_ownership(resource: Resource, found: Mapping[str, Any], step: str) -> None:
    tags = resource.body.get("tags")
    is_group = resource.type.endswith("/resourceGroups")
    if isinstance(tags, Mapping) and not is_group and not has_owner_tag(found, str(tags[TAG])):
        raise ProvisioningError(
            f"{step}: there is a {resource.name} already, and cci provision did not make it",
            hint="choose other names by --suffix or --name, or another --resource-group",
            step=step,
        )


def _is_propagation_error(error: ProvisioningError) -> bool:
    text = f"{error.code} {error}".lower()
    return any(part in text for part in ("principalnotfound", "unauthorized", "imagepull", "pull"))

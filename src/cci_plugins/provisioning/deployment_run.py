"""One run of a deployment: shared state, and the only way in which a resource is created.

`DeploymentRun.ensure` brings one resource to its desired state:

1. Read it, and wait while an operation on it is in progress.
2. Refuse to touch a resource of that name without this package's tag.
3. Keep it if everything in the desired body matches. It may have more, because Azure adds defaults.
4. Else send the whole body. Where it depends on a role that was just assigned, a refusal may only
   mean that the role is not known everywhere yet, so the request is repeated for a while.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import anyio

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.azure.resource_manager import has_terminal_state
from cci_plugins.errors import ProvisioningError

from .client import ProvisioningClient
from .options import Options
from .progress import Progress, ProgressHandler, State
from .tags import TAG

_REPORT_SECONDS = 15.0
# Azure accepts these properties and never returns them.
_WRITE_ONLY = frozenset({"secrets", "credentials"})
# Azure may leave these properties out of what it returns, in some versions of its API.
_NOT_ALWAYS_RETURNED = frozenset({"probes", "managedidentitysettings", "lifecycletype"})
_CONFLICTS = frozenset({"requestconflict", "conflict", "anotheroperationinprogress"})
_UNTIL_DONE, _UNTIL_KNOWN = "for another change", "until the new role is known everywhere"
_QUANTITY = re.compile(r"(\d+)\.0+(?=[A-Za-z]+$)")


@dataclass(slots=True)
class DeploymentRun:
    """One run against one subscription.

    Attributes:
        options: What to provision.
        azure: Address, sign-in and waiting times for Azure.
        arm: Client of Resource Manager.
        report: Called with each progress.
        changed: Ids of the resources that this run created or changed.
        notes: Notes for the user.
        unassigned: Ids of the roles that could not be assigned, each with the command for it.
    """

    options: Options
    azure: Azure
    arm: ProvisioningClient
    report: ProgressHandler
    changed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unassigned: list[tuple[str, str]] = field(default_factory=list)

    def add_note(self, step: str, message: str) -> None:
        """Report a note now, and keep it for the result."""
        self.notes.append(message)
        self.report(Progress(step, "note", message))

    async def ensure(
        self,
        resource: Resource,
        *,
        expected_duration: str = "",
        step: str = "",
        retry_role_propagation: bool = False,
        retry_conflict: bool = False,
        change: Resource | None = None,
    ) -> Mapping[str, Any]:
        """Create or change a resource, unless it is as it should be.

        Args:
            resource: The desired state.
            expected_duration: How long it takes, in words.
            step: Its name in the progress. The kind of the resource by default.
            retry_role_propagation: Whether a refusal may come from a role that is not known
                everywhere yet.
            retry_conflict: Whether the resource takes one change at a time, so that a conflict is
                waited for.
            change: The request that changes it if it exists, sent by PATCH. The whole body by PUT
                when None.

        Returns:
            The resource, as Azure returned it.

        Raises:
            ProvisioningError: Azure refused, or the resource does not belong to this package.
        """
        step = step or resource.kind
        reporter = StepReporter(self.report, step)
        found = await self.wait_until_provisioned(resource, reporter)
        if found is not None:
            check_ownership(resource, found, step)
            if is_up_to_date(resource, found):
                reporter.report("kept", f"{step} {resource.name} exists")
                return found
        verb = "creating" if found is None else "changing"
        duration = f"; this takes {expected_duration}" if expected_duration else ""
        reporter.report("working", f"{verb} {step} {resource.name}{duration}")
        is_patch = change is not None and found is not None and not has_failed(found)
        wanted = change if is_patch and change is not None else resource
        answer = await self._put(
            wanted if found is None else _keep_tags(wanted, found),
            reporter,
            retry_role_propagation=retry_role_propagation,
            retry_conflict=retry_conflict,
            method="PATCH" if is_patch else "PUT",
        )
        self.changed.append(resource.id)
        state: State = "created" if found is None else "updated"
        reporter.report(state, f"{state} {step} {resource.name}")
        return answer

    async def wait_until_provisioned(
        self, resource: Resource, reporter: StepReporter
    ) -> Mapping[str, Any] | None:
        """Return a resource once no operation on it is in progress, or None if it is missing.

        Raises:
            ProvisioningError: The operation takes longer than `Azure.patience`.
        """
        deadline = time.monotonic() + self.azure.patience.total_seconds()
        while True:
            found = await self.arm.get(resource.id, resource.api_version, step=reporter.step)
            if found is None or has_terminal_state(found):
                return found
            if time.monotonic() > deadline:
                raise ProvisioningError(
                    f"{reporter.step} {resource.name} is still being changed",
                    hint="run the same command again later; it continues from here",
                    step=reporter.step,
                )
            reporter.report_waiting()
            await anyio.sleep(self.azure.polling.total_seconds())

    async def _put(
        self,
        resource: Resource,
        reporter: StepReporter,
        *,
        retry_role_propagation: bool,
        retry_conflict: bool,
        method: str,
    ) -> Mapping[str, Any]:
        deadline = time.monotonic() + self.azure.settling.total_seconds()
        while True:
            try:
                return await self.arm.put(
                    resource,
                    step=reporter.step,
                    report_waiting=reporter.report_waiting,
                    method=method,
                )
            except ProvisioningError as error:
                is_conflict = retry_conflict and error.code.lower() in _CONFLICTS
                is_role = retry_role_propagation and _is_propagation_error(error)
                if time.monotonic() > deadline or not (is_conflict or is_role):
                    raise
            reporter.report_waiting(_UNTIL_DONE if is_conflict else _UNTIL_KNOWN)
            await anyio.sleep(self.azure.polling.total_seconds())


class StepReporter:
    """Progress of one step, with the time since it began.

    Args:
        on_progress: Called with each progress.
        step: Name of the step.
    """

    def __init__(self, on_progress: ProgressHandler, step: str) -> None:
        self.step = step
        self._on_progress = on_progress
        self._start = time.monotonic()
        self._last_report = self._start

    def report(self, state: State, message: str) -> None:
        """Report a change of the step's state."""
        elapsed = timedelta(seconds=time.monotonic() - self._start)
        self._on_progress(Progress(self.step, state, message, elapsed))

    def report_waiting(self, until: str = "for Azure") -> None:
        """Report that the step still runs, at most once in 15 seconds."""
        now = time.monotonic()
        if now - self._last_report >= _REPORT_SECONDS:
            self._last_report = now
            self.report(
                "waiting", f"{self.step}: waiting {until}, {now - self._start:.0f} s so far"
            )


def is_up_to_date(resource: Resource, found: Mapping[str, Any]) -> bool:
    """Return whether a resource has its desired state and its last operation did not fail."""
    return not has_failed(found) and matches(_drop_write_only(resource.body), found)


def has_failed(found: Mapping[str, Any]) -> bool:
    """Return whether the last operation on a resource failed."""
    state = lowercase_keys(found.get("properties")).get("provisioningstate")
    return str(state).lower() in {"failed", "canceled"}


def matches(wanted: object, found: object) -> bool:
    """Return whether a JSON value has everything that is wanted. It may have more.

    Azure returns names and values in another case, regions with spaces ("East US"), and
    quantities without zeros ("2Gi" for "2.0Gi").
    """
    if isinstance(wanted, Mapping):
        given = lowercase_keys(found)
        return isinstance(found, Mapping) and all(
            (name.lower() in _NOT_ALWAYS_RETURNED and given.get(name.lower()) is None)
            or matches(value, given.get(name.lower()))
            for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(matches(one, other) for one, other in zip(wanted, found, strict=True))
        )
    if isinstance(wanted, str) and isinstance(found, str):
        return _normalize(wanted) == _normalize(found)
    return wanted == found


def has_owner_tag(found: Mapping[str, Any], name: str) -> bool:
    """Return whether a resource has this package's tag with the given name."""
    return str(lowercase_keys(found.get("tags")).get(TAG, "")) == name


def _normalize(text: str) -> str:
    return _QUANTITY.sub(r"\1", text.replace(" ", "").lower())


def _drop_write_only(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _drop_write_only(item) for name, item in value.items() if name not in _WRITE_ONLY
        }
    return [_drop_write_only(item) for item in value] if isinstance(value, list) else value


def _keep_tags(resource: Resource, found: Mapping[str, Any]) -> Resource:
    """Return a resource with the tags that it has and that nobody asked to change."""
    tags = resource.body.get("tags")
    if not isinstance(tags, Mapping) or not isinstance(found.get("tags"), Mapping):
        return resource
    return replace(resource, body={**resource.body, "tags": {**found["tags"], **tags}})


def check_ownership(resource: Resource, found: Mapping[str, Any], step: str) -> None:
    """Refuse to change a resource that does not have this package's tag.

    Raises:
        ProvisioningError: It does not.
    """
    tags = resource.body.get("tags")
    is_group = resource.type.endswith("/resourceGroups")
    if isinstance(tags, Mapping) and not is_group and not has_owner_tag(found, str(tags[TAG])):
        raise ProvisioningError(
            f"{step}: {resource.name} exists, and cci provision did not create it",
            hint="choose other names by --suffix or --name, or another --resource-group",
            step=step,
        )


def _is_propagation_error(error: ProvisioningError) -> bool:
    if error.code.lower() in {"authorizationfailed", "linkedauthorizationfailed"}:
        return False  # the role of who runs this is missing, and waiting does not give it
    text = f"{error.code} {error}".lower()
    return any(part in text for part in ("principalnotfound", "unauthorized", "imagepull", "pull"))

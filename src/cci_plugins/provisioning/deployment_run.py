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
from cci_plugins.azure.resource_manager import Arm, is_settled
from cci_plugins.errors import ProvisioningError

from .compare import fits, lower
from .options import Options
from .progress import Progress, State, Tell
from .resources import TAG

_TELL_AGAIN = 15.0  # seconds
# What Azure does not send back: secrets, and what it only takes.
_WRITE_ONLY = frozenset({"secrets"})


@dataclass(slots=True)
class Work:
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
    arm: Arm
    tell: Tell
    changed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, step: str, message: str) -> None:
        """Say something that is to be known, now and in the end."""
        self.notes.append(message)
        self.tell(Progress(step, "note", message))

    async def ensure(
        self, resource: Resource, *, takes: str = "", step: str = "", settles: bool = False
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
        watch = Watch(self.tell, step)
        found = await self.settled(resource, watch)
        if found is not None:
            _refuse_foreign(resource, found, step)
            if is_fit(resource, found):
                watch.tell("kept", f"{step} {resource.name} is there")
                return found
        verb = "creating" if found is None else "changing"
        duration = f"; this takes {takes}" if takes else ""
        watch.tell("working", f"{verb} {step} {resource.name}{duration}")
        made = await self._put(resource, watch, settles=settles)
        self.changed.append(resource.id)
        state: State = "created" if found is None else "updated"
        watch.tell(state, f"{state} {step} {resource.name}")
        return made

    async def settled(self, resource: Resource, watch: Watch) -> Mapping[str, Any] | None:
        """What is there, once nothing is being done to it any more."""
        deadline = time.monotonic() + self.azure.patience.total_seconds()
        while True:
            found = await self.arm.get(resource.id, resource.api_version, step=watch.step)
            if found is None or is_settled(found):
                return found
            if time.monotonic() > deadline:
                raise ProvisioningError(
                    f"{watch.step} {resource.name} is still being changed",
                    hint="run the same command again later; it goes on from here",
                    step=watch.step,
                )
            watch.waiting()
            await anyio.sleep(self.azure.polling.total_seconds())

    async def _put(self, resource: Resource, watch: Watch, *, settles: bool) -> Mapping[str, Any]:
        """Send it; again for a while, where a role that was just given may not be known yet."""
        deadline = time.monotonic() + (self.azure.settling.total_seconds() if settles else 0)
        while True:
            try:
                return await self.arm.put(resource, step=watch.step, waiting=watch.waiting)
            except ProvisioningError as error:
                if time.monotonic() > deadline or not _may_settle(error):
                    raise
            watch.waiting("until the new role is known everywhere")
            await anyio.sleep(self.azure.polling.total_seconds())


class Watch:
    """The time one step takes, told now and then."""

    def __init__(self, tell: Tell, step: str) -> None:
        self.step = step
        self._tell = tell
        self._start = time.monotonic()
        self._told = self._start

    def tell(self, state: State, message: str) -> None:
        """Say what happened."""
        self._tell(Progress(self.step, state, message, self._elapsed()))

    def waiting(self, until: str = "for Azure") -> None:
        """Say now and then that it still lasts."""
        now = time.monotonic()
        if now - self._told >= _TELL_AGAIN:
            self._told = now
            self.tell("waiting", f"{self.step}: waiting {until}, {now - self._start:.0f} s so far")

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._start)


def is_fit(resource: Resource, found: Mapping[str, Any]) -> bool:
    """Whether a resource is as it should be and did not fail."""
    state = lower(found.get("properties")).get("provisioningstate")
    return str(state).lower() not in {"failed", "canceled"} and fits(
        _readable(resource.body), found
    )


def is_ours(found: Mapping[str, Any], name: str) -> bool:
    """Whether we made a resource."""
    return str(lower(found.get("tags")).get(TAG, "")) == name


def _readable(value: Any) -> Any:
    """A body without what Azure never sends back."""
    if isinstance(value, Mapping):
        return {name: _readable(item) for name, item in value.items() if name not in _WRITE_ONLY}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def _refuse_foreign(resource: Resource, found: Mapping[str, Any], step: str) -> None:
    tags = resource.body.get("tags")
    is_group = resource.type.endswith("/resourceGroups")
    if isinstance(tags, Mapping) and not is_group and not is_ours(found, str(tags[TAG])):
        raise ProvisioningError(
            f"{step}: there is a {resource.name} already, and cci provision did not make it",
            hint="choose other names by --suffix or --name, or another --resource-group",
            step=step,
        )


def _may_settle(error: ProvisioningError) -> bool:
    words = f"{error.code} {error}".lower()
    return any(part in words for part in ("principalnotfound", "unauthorized", "imagepull", "pull"))

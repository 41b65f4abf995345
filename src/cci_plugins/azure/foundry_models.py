"""The model that guides, samples and templates name, and the models that a region offers.

Models retire, and each region offers others. So nothing relies on one name: `cci provision up` and
`cci doctor` ask Azure what the region offers, and report the reason with what can be used instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from cci_plugins.errors import AuthenticationError

from . import api_versions
from .failures import ArmError
from .resource import lowercase_keys
from .resource_manager import ArmClient

SOON = timedelta(days=90)
_FORMAT = "openai"
_KINDS = {"", "aiservices"}
_MOST_LISTED = 6
_RETIRED = {"retired"}
_STEP = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """A version of a model that a region offers.

    Attributes:
        name: Its name.
        version: Its version.
        skus: Kinds of deployment, such as `GlobalStandard`.
        retires: The day on which it ends, if Azure names one.
        is_chat: Whether it answers questions, as an agent's model must.
    """

    name: str
    version: str
    skus: tuple[str, ...] = ()
    retires: date | None = None
    is_chat: bool = True

    def has_retired(self, today: date) -> bool:
        """Return whether it has ended by this day."""
        return self.retires is not None and self.retires <= today


async def list_offered_models(
    arm: ArmClient, subscription: str, location: str
) -> list[OfferedModel] | None:
    """Return the OpenAI models of a region, or None if Azure does not report them.

    Args:
        arm: Client of Resource Manager.
        subscription: Id of the subscription.
        location: Region, by its short name.

    Returns:
        One entry for each version. None if the request is refused, so that a model is judged
        without the list.
    """
    path = f"/subscriptions/{subscription}/providers/Microsoft.CognitiveServices/locations"
    try:
        found = await arm.list(
            f"{path}/{location}/models", api_versions.COGNITIVE_SERVICES, step=_STEP
        )
    except (ArmError, AuthenticationError):
        return None
    return list(_parse_models(found)) or None


def find_problem(
    offered: Sequence[OfferedModel],
    model: str,
    *,
    location: str,
    version: str = "",
    sku: str = "",
    today: date | None = None,
) -> str | None:
    """Return why a region cannot serve a model and what it offers instead, or None.

    Args:
        offered: The models of the region.
        model: Name of the model.
        location: The region.
        version: Version of the model. The region's default when empty.
        sku: Kind of the deployment. Any kind when empty.
        today: The day for which it is judged. The current day when None.
    """
    day = today or date.today()  # noqa: DTZ011 - schedules name days, without a time zone
    known = [one for one in offered if one.name.lower() == model.lower()]
    usable = [one for one in known if not one.has_retired(day)]
    if not known:
        reason = f"the region {location} does not offer the model {model}"
    elif not usable:
        ends = max(one.retires for one in known if one.retires is not None)
        reason = f"the model {model} was retired in {location} on {ends}"
    elif version and not any(one.version == version for one in usable):
        versions = ", ".join(sorted({one.version for one in usable}))
        return f"{location} offers {model} in the versions {versions}, not {version}"
    elif sku and not any(_has_sku(one, sku) for one in usable):
        kinds = ", ".join(sorted({kind for one in usable for kind in one.skus}))
        return f"{location} offers {model} as {kinds}, not as {sku}"
    else:
        return None
    others = _list_alternatives(offered, sku, day)
    return f"{reason}; it offers {', '.join(others)}" if others else reason


def find_end(
    offered: Iterable[OfferedModel], model: str, version: str = "", *, today: date | None = None
) -> date | None:
    """Return the day on which a model ends if that is soon, or None.

    Args:
        offered: The models of the region.
        model: Name of the model.
        version: Its version. The one that ends last when empty.
        today: The day for which it is judged. The current day when None.
    """
    day = today or date.today()  # noqa: DTZ011 - schedules name days, without a time zone
    ends = [
        one.retires
        for one in offered
        if one.name.lower() == model.lower() and version in {"", one.version}
    ]
    if not ends or None in ends:
        return None
    last = max(one for one in ends if one is not None)
    return last if last - day <= SOON else None


def _parse_models(found: Iterable[Mapping[str, object]]) -> Iterable[OfferedModel]:
    seen = set()
    for item in found:
        values = lowercase_keys(item)
        model = lowercase_keys(values.get("model"))
        name, version = str(model.get("name") or ""), str(model.get("version") or "")
        is_ours = str(values.get("kind") or "").lower() in _KINDS
        is_openai = str(model.get("format") or _FORMAT).lower() == _FORMAT
        if not (name and is_ours and is_openai) or (name, version) in seen:
            continue
        seen.add((name, version))
        capabilities = lowercase_keys(model.get("capabilities"))
        yield OfferedModel(
            name=name,
            version=version,
            skus=_list_skus(model),
            retires=_find_retirement(model),
            is_chat=not capabilities or _is_true(capabilities, "chatcompletion", "responses"),
        )


def _list_skus(model: Mapping[str, object]) -> tuple[str, ...]:
    skus = model.get("skus")
    items = skus if isinstance(skus, list) else []
    names = [str(lowercase_keys(one).get("name") or "") for one in items]
    return tuple(dict.fromkeys(name for name in names if name))


def _find_retirement(model: Mapping[str, object]) -> date | None:
    """Return the day on which inference ends. A model that is called retired has ended."""
    if str(model.get("lifecyclestatus") or "").lower() in _RETIRED:
        return date.min
    text = str(lowercase_keys(model.get("deprecation")).get("inference") or "")
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _is_true(capabilities: Mapping[str, object], *names: str) -> bool:
    return any(str(capabilities.get(name)).lower() == "true" for name in names)


def _has_sku(model: OfferedModel, sku: str) -> bool:
    return not model.skus or sku.lower() in {one.lower() for one in model.skus}


def _list_alternatives(offered: Sequence[OfferedModel], sku: str, day: date) -> list[str]:
    """Return names of models that can be used instead, those that end last first."""
    usable = [
        one
        for one in offered
        if one.is_chat and not one.has_retired(day) and (not sku or _has_sku(one, sku))
    ]
    usable.sort(key=lambda one: (one.retires or date.max, one.name), reverse=True)
    return list(dict.fromkeys(one.name for one in usable))[:_MOST_LISTED]

"""`azd up`: its project file, its parameters, and that neither asks for what is not there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from . import specs
from .snapshots import MAIN, ROOT, list_parameters, load_template

PARAMETERS = json.loads((MAIN.parent / "main.parameters.json").read_text(encoding="utf-8"))
VALUES = {name: each["value"] for name, each in PARAMETERS["parameters"].items()}
TEMPLATE = {each.name: each for each in list_parameters(load_template())}
_VARIABLE = re.compile(r"\$\{(\w+)(?:=(\w*))?\}")


def values(**environment: str) -> dict[str, Any]:
    """The parameters as azd passes them: what is empty keeps the template's default."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(item) for name, item in value.items()}
        return _VARIABLE.sub(lambda match: environment.get(match[1]) or match[2] or "", value)

    given = {name: replaced(value) for name, value in VALUES.items()}
    return {
        name: {"true": True, "false": False}[value] if TEMPLATE[name].type == "bool" else value
        for name, value in given.items()
        if value != ""
    }


def project() -> Any:
    return yaml.safe_load((ROOT / "azure.yaml").read_text(encoding="utf-8"))


def test_the_project_file_is_as_azd_describes_it() -> None:
    Draft201909Validator(specs.load("azure.yaml.v1.0.schema.json")).validate(project())


def test_the_project_file_leads_to_the_template() -> None:
    infra = project()["infra"]
    assert (ROOT / infra["path"] / f"{infra['module']}.bicep").samefile(MAIN)
    # azd would take it instead of main.parameters.json.
    assert not (MAIN.parent / "main.bicepparam").exists()


def test_the_parameters_file_names_only_what_the_template_has() -> None:
    assert set(VALUES) <= set(TEMPLATE)


def test_the_parameters_file_has_no_secret() -> None:
    for each in TEMPLATE.values():
        if each.is_secure and each.name in VALUES:
            assert re.fullmatch(r"\$\{\w+\}", VALUES[each.name])


def test_unset_variables_keep_the_template_s_defaults() -> None:
    for name, value in values(AZURE_ENV_NAME="dev").items():
        if name != "tags":
            assert value == TEMPLATE[name].default, name
    assert values(AZURE_ENV_NAME="dev")["tags"] == {"azd-env-name": "dev"}


def test_every_variable_reaches_its_parameter() -> None:
    for name, text in VALUES.items():
        if isinstance(text, str):
            (variable,) = (found[0] for found in _VARIABLE.findall(text))
            kind = TEMPLATE[name].type
            given = {"bool": "true"}.get(kind, "given")
            assert values(**{variable: given})[name] == (True if kind == "bool" else "given")


@pytest.mark.parametrize("output", sorted(load_template()["outputs"]))
def test_outputs_do_not_overwrite_what_the_user_set(output: str) -> None:
    asked = set(_VARIABLE.findall(json.dumps(VALUES)))
    assert output not in {name for name, _ in asked}

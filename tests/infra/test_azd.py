"""`azd up`: its project file, its parameters, and that neither asks for what is not there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from . import bicep, specs
from .bicep import MAIN, ROOT, deploy

PARAMETERS = json.loads((MAIN.parent / "main.parameters.json").read_text(encoding="utf-8"))
VALUES = {name: each["value"] for name, each in PARAMETERS["parameters"].items()}
_VARIABLE = re.compile(r"\$\{(\w+)(?:=(\w*))?\}")


def values(**environment: str) -> dict[str, Any]:
    """The parameters as azd passes them: what is empty keeps the template's default."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(item) for name, item in value.items()}
        return _VARIABLE.sub(lambda match: environment.get(match[1]) or match[2] or "", value)

    types = {each.name: each.type for each in bicep.parameters(MAIN)}
    given = {name: replaced(value) for name, value in VALUES.items()}
    return {
        name: {"true": True, "false": False}[value] if types[name] == "bool" else value
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
    assert set(VALUES) <= {each.name for each in bicep.parameters(MAIN)}


def test_the_parameters_file_has_no_secret() -> None:
    for each in bicep.parameters(MAIN):
        if each.secure and each.name in VALUES:
            assert re.fullmatch(r"\$\{\w+\}", VALUES[each.name])


def test_the_defaults_deploy_a_python_pool_with_storage() -> None:
    made = deploy(values(AZURE_ENV_NAME="dev"))
    pool = made.one("Microsoft.App/sessionPools").body
    assert pool["properties"]["containerType"] == "PythonLTS"
    assert pool["location"] == "eastus"
    assert pool["tags"] == {"azd-env-name": "dev", "cci-plugins": "cci"}
    assert made.of("Microsoft.Storage/storageAccounts") != []


def test_every_variable_reaches_its_parameter() -> None:
    made = deploy(
        values(
            AZURE_ENV_NAME="dev",
            AZURE_LOCATION="swedencentral",
            AZURE_PRINCIPAL_ID="someone",
            AZURE_PRINCIPAL_TYPE="Group",
            CCI_KIND="custom",
            CCI_IMAGE="r.azurecr.io/cci-session:1",
            CCI_GATEWAY="true",
            CCI_STORAGE="false",
            CCI_FOUNDRY="true",
            CCI_EGRESS="true",
            CCI_SUBNET_ID="/a/subnet",
            CCI_SERVE_KEY="0123456789abcdef",
        )
    )
    assert made.of("Microsoft.Storage/storageAccounts") == []
    app = made.one("Microsoft.App/containerApps").body
    assert app["location"] == "swedencentral"
    assert app["properties"]["configuration"]["secrets"][0]["value"] == "0123456789abcdef"
    pool = made.one("Microsoft.App/sessionPools").body["properties"]
    assert pool["sessionNetworkConfiguration"]["status"] == "EgressEnabled"


@pytest.mark.parametrize("output", sorted(deploy().outputs))
def test_outputs_do_not_overwrite_what_the_user_set(output: str) -> None:
    asked = set(_VARIABLE.findall(json.dumps(VALUES)))
    assert output not in {name for name, _ in asked}

"""`infra/README.md`: its tables are complete, and its commands name what exists."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from cci_plugins.azure import api_versions

from .snapshots import FOLDER, MAIN, ROOT, SHAPES, list_parameters, load, load_template
from .test_azd import VALUES
from .test_template import PRINCIPAL, list_assignments

README = (MAIN.parent / "README.md").read_text(encoding="utf-8")
PARAMETERS = list_parameters(load_template())
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
OPTIONS = {  # as `--help` of azure-cli 2.91 and the reference of azd have them
    "az acr build": {"file", "image", "registry"},
    "az acr list": {"output", "query", "resource-group"},
    "az ad signed-in-user show": {"output", "query"},
    "az cognitiveservices account purge": {"location", "name", "resource-group"},
    "az containerapp secret show": {"name", "output", "query", "resource-group", "secret-name"},
    "az deployment group create": {"parameters", "resource-group", "template-file"},
    "az deployment group show": {"name", "query", "resource-group"},
    "az feature register": {"name", "namespace"},
    "az feature show": {"name", "namespace", "query"},
    "az group create": {"location", "name"},
    "az group delete": {"name"},
    "az provider register": {"namespace"},
    "az resource list": {"output", "resource-group", "tag"},
    "azd auth login": set(),
    "azd env get-value": set(),
    "azd env new": set(),
    "azd env set": set(),
    "azd up": set(),
}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of a section's first table by the names in their first cells."""
    section = re.split(r"^## ", README, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    rows = [row.strip("|").split("|") for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)[2:]]
    return {
        name: [cell.strip() for cell in cells]
        for first, *cells in rows
        for name in re.findall(r"`(\w+)`", first)
    }


def test_every_parameter_is_in_the_table() -> None:
    assert set(table("Parameters")) == {each.name for each in PARAMETERS}


def test_the_table_has_the_template_s_defaults() -> None:
    shown = {name: row[0].strip("`") for name, row in table("Parameters").items()}
    for each in PARAMETERS:
        if each.default and not str(each.default).startswith("["):
            default = json.dumps(each.default).strip('"')
            assert shown[each.name] == default, each.name


def test_every_output_is_in_the_table() -> None:
    assert set(table("Outputs")) == set(load_template()["outputs"])


def test_the_variables_of_azd_are_those_of_the_parameters_file() -> None:
    shown = {row[0].strip("`"): name for name, row in table("With azd").items()}
    assert {name: f"${{{variable}" for name, variable in shown.items()} == {
        name: value.partition("=")[0].rstrip("}")
        for name, value in VALUES.items()
        if isinstance(value, str) and not name.startswith("principal")
    }


def test_every_role_is_in_the_table() -> None:
    section = README.split("## Roles")[1].split("\n## ")[0]
    rows = [row.strip("|").split("|") for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)]
    shown = {
        ("principalId" in who, re.sub(r" \(.*", "", role.strip())) for who, role, _ in rows[2:]
    }
    made = {one for shape in SHAPES for one in list_assignments(load(shape))}
    assert shown == {(whom == PRINCIPAL, role) for role, _, whom in made}


def test_the_table_has_the_names_that_are_created() -> None:
    made = [one for shape in SHAPES for one in load(shape).resources]
    names = {part for resource in made for part in resource.name.split("/")}
    for shown in re.findall(r"`(cci[\w<>-]*)`", README.split("## Before")[0]):
        if shown not in {"cci", "cci-plugins"}:
            assert shown.replace("<suffix>", "abc123") in names, shown


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_names_what_exists(line: str) -> None:
    line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line).replace("<", "").replace(">", "")
    words = shlex.split(line)
    name = next((name for name in OPTIONS if line.startswith(name)), None)
    assert name, f"an unknown command: {line}"
    assert {word[2:] for word in words if word.startswith("--")} <= OPTIONS[name]
    known = {each.name for each in PARAMETERS}
    if "--parameters" in words:
        given = words[words.index("--parameters") + 1 :]
        named = [each for each in given if each != "--parameters" and each[0] != "@"]
        assert {each.partition("=")[0] for each in named} <= known
    for option in ("--template-file", "--file"):
        if option in words:
            assert (ROOT / words[words.index(option) + 1]).is_file()
    if name == "azd env set":
        assert f"${{{words[3]}" in str(VALUES)
    if name == "azd env get-value":
        assert words[3] in load_template()["outputs"]


def test_every_snapshot_is_in_the_readme() -> None:
    listed = set(re.findall(r"\[`([\w-]+)`\]\(snapshots/\1\.snapshot\.json\)", README))
    assert listed == set(SHAPES)
    assert all((FOLDER / f"{shape}.snapshot.json").is_file() for shape in listed)


def test_the_table_of_api_versions_is_the_templates_own() -> None:
    section = README.split("## API versions")[1].split("\n## ")[0]
    row = r"^\| .* \| `(modules/[\w-]+\.bicep)` \| ([\w-]+) \| (.*) \|$"
    rows = re.findall(row, section, re.MULTILINE)
    named = {(file, version) for file, version, _ in rows}
    used = {
        (f"modules/{path.name}", version)
        for path in (MAIN.parent / "modules").glob("*.bicep")
        for version in re.findall(
            r"^resource \w+ 'Microsoft\.(?:App|CognitiveServices)/[\w/]+@([\w-]+)'",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    assert named == used
    for _, version, following in rows:
        for one in api_versions.FALLBACKS.get(version, ())[:1]:
            assert one in following

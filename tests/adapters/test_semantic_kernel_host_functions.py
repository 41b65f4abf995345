"""Kernel functions that code calls: both kinds of filters, `KernelArguments`, approval."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_calling_utils import (
    kernel_function_metadata_to_function_call_format,
)
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.filters import FilterTypes
from semantic_kernel.functions import FunctionResult, KernelArguments, kernel_function

from cci_plugins import CodeInterpreter, Decision, HostTool, ToolCallRequest
from cci_plugins.errors import ConfigurationError
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing.session_pools import FakeTools

from ._host_tools import Program, failure, pool_of

pytestmark = pytest.mark.anyio


class Orders:
    """A plugin of an application."""

    @kernel_function(name="search", description="Find orders. The newest come first.")
    async def search(
        self,
        customer: Annotated[str, "Name of the customer."],
        limit: int = 2,
        tenant: Annotated[str, "Hidden.", {"include_in_function_choices": False}] = "none",
    ) -> list[dict[str, Any]]:
        return [{"customer": customer, "id": n, "tenant": tenant} for n in range(limit)]

    @kernel_function(name="explode", description="Fail.")
    def explode(self) -> str:
        raise KeyError("boom")


def kernel_of(*filters: tuple[FilterTypes, Any]) -> Kernel:
    kernel = Kernel()
    kernel.add_plugin(Orders(), "orders")
    for kind, one in filters:
        kernel.add_filter(kind, one)
    return kernel


async def run_code(kernel: Kernel, program: Program, **options: Any) -> str:
    """Run code as the model's call does, and return what the model reads."""
    async with CodeInterpreter(pool_of(program)) as interpreter:
        options = {"functions": [kernel.get_plugin("orders")], **options}
        kernel.add_plugin(CodeInterpreterPlugin(interpreter, **options), "code")
        history = ChatHistory()
        call = FunctionCallContent(id="1", name="code-execute_code", arguments='{"code": "1"}')
        arguments = KernelArguments(session_id="a", tenant="contoso")
        await kernel.invoke_function_call(call, history, arguments=arguments)
        return str(history.messages[-1].items[0].result)


async def test_both_kinds_of_filters_see_each_call_and_hidden_arguments_stay_hidden() -> None:
    seen: list[Any] = []

    async def automatic(context: Any, next: Any) -> None:  # noqa: A002 - its name
        seen.append(("auto", context.function.fully_qualified_name, dict(context.arguments)))
        assert context.function_call_content.name == context.function.fully_qualified_name
        await next(context)

    async def plain(context: Any, next: Any) -> None:  # noqa: A002 - its name
        await next(context)
        seen.append(("plain", context.function.name))

    async def program(tools: FakeTools) -> Any:
        return [
            await tools.acall("orders_search", customer="alice", limit=1),
            await failure(tools.acall("orders_explode")),
            await failure(tools.acall("orders_search", customer="a", tenant="mine")),
            await failure(tools.acall("orders_search", customer=1)),
        ]

    filters = (
        (FilterTypes.AUTO_FUNCTION_INVOCATION, automatic),
        (FilterTypes.FUNCTION_INVOCATION, plain),
    )
    result = await run_code(kernel_of(*filters), program)
    assert "[{'customer': 'alice', 'id': 0, 'tenant': 'contoso'}]" in result
    assert "('failed', \"KeyError: 'boom'\")" in result
    assert "'tenant' is not a parameter; the parameters are customer, limit" in result
    assert "arguments['customer']: 1 is not of type 'string'" in result
    given = {"session_id": "a", "tenant": "contoso", "customer": "alice", "limit": 1}
    assert seen[1:4] == [
        ("auto", "orders-search", given),
        ("plain", "search"),
        ("auto", "orders-explode", {"session_id": "a", "tenant": "contoso"}),
    ]


async def test_filters_can_replace_refuse_and_end() -> None:
    async def automatic(context: Any, next: Any) -> None:  # noqa: A002 - its name
        customer = context.arguments.get("customer")
        if customer == "cached":
            value = ["from the filter"]
            context.function_result = FunctionResult(
                function=context.function.metadata, value=value
            )
        elif customer == "secret":
            return
        elif customer == "forbidden":
            raise PermissionError("not this one")
        else:
            await next(context)
            context.terminate = customer == "last"

    async def program(tools: FakeTools) -> Any:
        names = ("cached", "secret", "forbidden", "last", "more")
        return [await failure(tools.acall("orders_search", customer=n, limit=0)) for n in names]

    result = await run_code(kernel_of((FilterTypes.AUTO_FUNCTION_INVOCATION, automatic)), program)
    assert result == repr(
        [
            ("returned", "['from the filter']"),
            ("denied", "a filter of the kernel did not run this function"),
            ("failed", "PermissionError: not this one"),
            ("returned", "[]"),
            ("denied", "a filter of the kernel has ended the functions of this turn"),
        ]
    )


async def test_an_approver_is_asked_while_the_code_waits() -> None:
    asked: list[ToolCallRequest] = []

    async def approve(request: ToolCallRequest) -> Decision:
        asked.append(request)
        return Decision("deny", reason="not today")

    async def program(tools: FakeTools) -> Any:
        return await failure(tools.acall("orders_search", customer="alice"))

    kernel = kernel_of()
    result = await run_code(kernel, program, needs_approval=["orders_search"], approve_tool=approve)
    assert result == "('denied', 'the user did not approve the call of orders_search: not today')"
    assert [(one.name, one.arguments) for one in asked] == [
        ("orders_search", {"customer": "alice"})
    ]


def shown(plugin: CodeInterpreterPlugin) -> dict[str, Any]:
    added = Kernel().add_plugin(plugin, "code")
    return dict(
        kernel_function_metadata_to_function_call_format(added["execute_code"].metadata)["function"]
    )


def test_the_model_sees_the_signatures_and_the_same_parameters() -> None:
    plain, kernel = shown(CodeInterpreterPlugin()), kernel_of()
    add = HostTool("add", "Add.", {"properties": {"a": {"type": "integer"}}}, lambda a: a)
    with_functions = shown(
        CodeInterpreterPlugin(functions=[kernel.get_function("orders", "search"), add])
    )
    assert with_functions["parameters"] == plain["parameters"]
    assert with_functions["description"].startswith(plain["description"] + "\n")
    signature = "- tools.orders_search(customer: str, limit: int = 2): Find orders.\n"
    assert signature in with_functions["description"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"functions": [kernel_of().get_plugin("orders")], "needs_approval": ["x"]}, "names 'x'"),
        (
            {"functions": [kernel_of().get_plugin("orders")], "needs_approval": ["orders_search"]},
            "nobody can be asked",
        ),
        ({"functions": [len]}, "functions has a builtin"),
        ({"functions": kernel_of().get_plugin("orders")}, "functions is a KernelPlugin"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        CodeInterpreterPlugin(**options)

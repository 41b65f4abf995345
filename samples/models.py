"""The model behind the samples: OpenAI or Azure OpenAI if configured, else the scripted one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.request import getproxies

from cci_plugins.errors import CodeInterpreterError
from cci_plugins.testing import Script, ScriptedModel, Turn

if TYPE_CHECKING:  # each sample needs one framework only
    from langchain_core.language_models import BaseChatModel
    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")
AZURE = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_CHAT_DEPLOYMENT_NAME")
OPENAI = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL")
POWERS = Script(
    (
        Turn("2 to the power of 100", "n = 2 ** 100\nprint(n)", r"(?P<n>\d{31})", "It is {n}."),
        Turn("square root", "print(int(n ** 0.5))", r"(?P<n>\d+)", "Its square root is {n}."),
    )
)
Failure = tuple[str, str | None]


def run_sample(main: Callable[[], Coroutine[Any, Any, Any]], script: Script | None = None) -> None:
    """Run `main`, with a model if there is a script. Report a failure in a line and a next step."""
    logging.basicConfig(level=logging.CRITICAL)  # the frameworks log tracebacks of what they raise
    logging.getLogger("cci_plugins").setLevel(logging.WARNING)
    try:
        if script is None:
            sys.exit(asyncio.run(main()))
        with serve_model(script) as description:
            print("model:", description, flush=True)
            sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failure = describe_failure(error)
        if failure is None:
            raise
        sys.exit(format_failure(failure))


def is_azure() -> bool:
    """Return whether the Azure OpenAI variables are set. Exit if only some of them are."""
    missing = [name for name in AZURE if not os.environ.get(name)]
    if 0 < len(missing) < len(AZURE):
        sys.exit(f"error: Azure OpenAI is only half configured\n\nhint: set {', '.join(missing)}")
    return not missing


def get_deployment() -> str:
    """Return the name of the model's deployment on Azure."""
    return os.environ["AZURE_OPENAI_CHAT_DEPLOYMENT_NAME"]


@contextmanager
def serve_model(script: Script) -> Iterator[str]:
    """Make a model reachable, and yield a description of it."""
    if is_azure():
        yield f"Azure OpenAI, deployment {get_deployment()}"
    elif os.environ.get("OPENAI_API_KEY"):
        yield f"OpenAI, {MODEL}"
    else:
        with ScriptedModel(script) as server:
            local = {"OPENAI_API_KEY": "none-needed", "OPENAI_BASE_URL": server.url}
            if getproxies():  # a proxy would look for 127.0.0.1 on its own machine
                local |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            with patch.dict(os.environ, local):
                yield "scripted (set OPENAI_API_KEY or the AZURE_OPENAI_* variables for a real one)"


@asynccontextmanager
async def open_langchain_model() -> AsyncIterator[BaseChatModel]:
    """Yield the model for LangChain, and close its connections at the end."""
    from langchain_openai import AzureChatOpenAI, ChatOpenAI
    from openai import DefaultAsyncHttpxClient

    async with DefaultAsyncHttpxClient() as http:
        if is_azure():
            version = os.environ.get("OPENAI_API_VERSION", "2024-10-21")
            yield AzureChatOpenAI(
                azure_deployment=get_deployment(), api_version=version, http_async_client=http
            )
        else:
            yield ChatOpenAI(model=MODEL, http_async_client=http)


@asynccontextmanager
async def open_semantic_kernel_service() -> AsyncIterator[ChatCompletionClientBase]:
    """Yield the model for Semantic Kernel, and close its connections at the end."""
    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.open_ai import AzureChatCompletion, OpenAIChatCompletion

    if is_azure():
        service = AzureChatCompletion(deployment_name=get_deployment())
        async with service.client:
            yield service
    else:
        async with AsyncOpenAI() as client:
            yield OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)


@asynccontextmanager
async def open_openai_client() -> AsyncIterator[AsyncOpenAI]:
    """Yield the client of the `openai` package. Use it with the model of `get_model_name`."""
    from openai import AsyncAzureOpenAI, AsyncOpenAI

    if is_azure():
        version = os.environ.get("OPENAI_API_VERSION", "2025-04-01-preview")
        async with AsyncAzureOpenAI(api_version=version) as client:
            yield client
    else:
        async with AsyncOpenAI() as client:
            yield client


def get_model_name() -> str:
    """Return the model's name in requests. On Azure, that is the deployment's name."""
    return get_deployment() if is_azure() else MODEL


def format_failure(failure: Failure) -> str:
    """Return the text of a failure and its next step, as the command line prints them."""
    message, hint = failure
    return f"error: {message}" + (f"\n\nhint: {hint}" if hint else "")


def describe_failure(error: BaseException) -> Failure | None:
    """Return what failed and the next step, or None for an error of the sample itself.

    The frameworks wrap the provider's error, so its causes are looked at too.
    """
    for cause in walk_causes(error):
        if isinstance(cause, EOFError):
            return "nobody answered the question", "run the sample in a terminal"
        if isinstance(cause, CodeInterpreterError):
            return str(cause), cause.hint
        if failure := describe_provider_failure(cause):
            return failure
    return None


def walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the errors of a group, and the errors that caused them."""
    seen = set()
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += getattr(error, "exceptions", ())
            waiting += [error.__cause__, error.__context__]


def describe_provider_failure(error: BaseException) -> Failure | None:
    """Return what failed at the model's provider and the next step."""
    openai = sys.modules.get("openai")
    if openai is None or not isinstance(error, openai.OpenAIError):
        return None
    endpoint, key, model = AZURE if is_azure() else OPENAI
    scripted = f"unset {'AZURE_OPENAI_*' if is_azure() else key} to use the scripted model"
    if isinstance(error, openai.APIConnectionError):
        return (
            f"the model's server at {error.request.url.host} cannot be reached",
            f"check the network, the proxy and {endpoint}, or {scripted}",
        )
    if not isinstance(error, openai.APIStatusError):
        return f"the model's client failed: {error}", f"check {endpoint} and {key}, or {scripted}"
    refused = ("the provider refused the key", f"check {key}")
    reasons = {
        "insufficient_quota": ("no quota is left", "add credit in the provider's billing settings"),
        401: refused,
        403: refused,
        404: (f"the provider has no model {get_model_name()!r}", f"set {model} to one of yours"),
        429: ("too many requests", "wait a minute and try again"),
    }
    other = ("the request failed", f"check {endpoint} and {model}, or try again later")
    reason, step = reasons.get(error.code) or reasons.get(error.status_code) or other
    return (
        f"the model did not answer: {reason} (HTTP {error.status_code})",
        f"{step}, or {scripted}",
    )

"""The model behind the samples: OpenAI or Azure OpenAI if configured, else the scripted one."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import patch
from urllib.request import getproxies

from langchain_core.language_models import BaseChatModel
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAsyncHttpxClient
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.open_ai import AzureChatCompletion, OpenAIChatCompletion

from cci_plugins.testing import Script, ScriptedModel

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")
AZURE = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_CHAT_DEPLOYMENT_NAME")


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

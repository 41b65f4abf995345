"""The model behind the samples: OpenAI or Azure OpenAI when configured, else the scripted one."""

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

from samples.scripted_model import Script, ScriptedModel

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
AZURE = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_CHAT_DEPLOYMENT_NAME")


def is_azure() -> bool:
    """Whether the Azure OpenAI variables are set; half of them is an error."""
    missing = [name for name in AZURE if not os.environ.get(name)]
    if 0 < len(missing) < len(AZURE):
        sys.exit(f"error: Azure OpenAI is half configured\n\nhint: set {', '.join(missing)}")
    return not missing


def deployment() -> str:
    """The name of the model's deployment on Azure."""
    return os.environ["AZURE_OPENAI_CHAT_DEPLOYMENT_NAME"]


@contextmanager
def model(script: Script) -> Iterator[str]:
    """Make a model reachable, and say which it is."""
    if is_azure():
        yield f"Azure OpenAI, deployment {deployment()}"
    elif os.environ.get("OPENAI_API_KEY"):
        yield f"OpenAI, {MODEL}"
    else:
        with ScriptedModel(script) as server:
            local = {"OPENAI_API_KEY": "none-needed", "OPENAI_BASE_URL": server.url}
            if getproxies():  # which would look for 127.0.0.1 on their own machine
                local |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            with patch.dict(os.environ, local):
                yield "scripted (set OPENAI_API_KEY or the AZURE_OPENAI_* variables for a real one)"


@asynccontextmanager
async def langchain_model() -> AsyncIterator[BaseChatModel]:
    """The model as LangChain wants it; its connections close at the end."""
    async with DefaultAsyncHttpxClient() as http:
        if is_azure():
            version = os.environ.get("OPENAI_API_VERSION", "2024-10-21")
            yield AzureChatOpenAI(
                azure_deployment=deployment(), api_version=version, http_async_client=http
            )
        else:
            yield ChatOpenAI(model=MODEL, http_async_client=http)


@asynccontextmanager
async def semantic_kernel_service() -> AsyncIterator[ChatCompletionClientBase]:
    """The model as Semantic Kernel wants it; its connections close at the end."""
    if is_azure():
        service = AzureChatCompletion(deployment_name=deployment())
        async with service.client:
            yield service
    else:
        async with AsyncOpenAI() as client:
            yield OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)


@asynccontextmanager
async def openai_client() -> AsyncIterator[AsyncOpenAI]:
    """The client of the `openai` package; on Azure its model is the deployment's name."""
    if is_azure():
        version = os.environ.get("OPENAI_API_VERSION", "2025-04-01-preview")
        async with AsyncAzureOpenAI(api_version=version) as client:
            yield client
    else:
        async with AsyncOpenAI() as client:
            yield client


def model_name() -> str:
    """What requests call the model."""
    return deployment() if is_azure() else MODEL

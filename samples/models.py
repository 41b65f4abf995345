"""The model behind the samples: OpenAI or Azure OpenAI when configured, else the scripted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_openai import AzureChatOpenAI, ChatOpenAI
from semantic_kernel.connectors.ai.open_ai import AzureChatCompletion, OpenAIChatCompletion

from samples.scripted_model import Script, ScriptedModel

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
DEPLOYMENT = os.environ.get("AZURE_OPENAI_CHAT_DEPLOYMENT_NAME", "")


def is_azure() -> bool:
    """Whether the Azure OpenAI variables are set."""
    return bool(os.environ.get("AZURE_OPENAI_ENDPOINT") and DEPLOYMENT)


@contextmanager
def model(script: Script) -> Iterator[str]:
    """Make a model reachable, and say which it is."""
    if is_azure():
        yield f"Azure OpenAI, deployment {DEPLOYMENT}"
    elif os.environ.get("OPENAI_API_KEY"):
        yield f"OpenAI, {MODEL}"
    else:
        with ScriptedModel(script) as server:
            os.environ |= {"OPENAI_API_KEY": "none-needed", "OPENAI_BASE_URL": server.url}
            try:
                yield "scripted (set OPENAI_API_KEY or the AZURE_OPENAI_* variables for a real one)"
            finally:
                del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]


def langchain_model() -> Any:
    """The model as LangChain wants it."""
    if is_azure():
        version = os.environ.get("OPENAI_API_VERSION", "2024-10-21")
        return AzureChatOpenAI(azure_deployment=DEPLOYMENT, api_version=version)
    return ChatOpenAI(model=MODEL)


def semantic_kernel_service() -> Any:
    """The model as Semantic Kernel wants it."""
    if is_azure():
        return AzureChatCompletion(deployment_name=DEPLOYMENT)
    from openai import AsyncOpenAI

    return OpenAIChatCompletion(ai_model_id=MODEL, async_client=AsyncOpenAI())

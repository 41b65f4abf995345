"""A Semantic Kernel agent. Without a key, a script is the model.

Semantic Kernel passes no thread id to a plugin, so the program names the session.
Run `pip install ".[local,semantic-kernel]"` in the checkout.
"""

from models import POWERS, open_semantic_kernel_service, run_sample
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread

from cci_plugins import CodeInterpreter
from cci_plugins.semantic_kernel import CodeInterpreterPlugin


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_semantic_kernel_service() as service:
        agent = ChatCompletionAgent(
            service=service,
            instructions="Use execute_code for arithmetic.",
            plugins=[CodeInterpreterPlugin(interpreter)],
        )
        thread = ChatHistoryAgentThread(thread_id="alice")
        with interpreter.use_session(thread.id):
            for question in ("What is 2 to the power of 100?", "And its square root?"):
                print(await agent.get_response(question, thread=thread))


run_sample(main, POWERS)

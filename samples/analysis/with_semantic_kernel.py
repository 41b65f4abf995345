"""Files in and out with Semantic Kernel: `python -m samples.analysis.with_semantic_kernel`."""

from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.contents import ChatMessageContent, FunctionResultContent

from cci_plugins import CodeInterpreter, Session
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from samples.analysis.task import INSTRUCTIONS, QUESTION, main, show_tool_text
from samples.models import open_semantic_kernel_service


async def show(message: ChatMessageContent) -> None:
    for item in message.items:
        if isinstance(item, FunctionResultContent):
            show_tool_text(item.result)


async def answer(interpreter: CodeInterpreter, session: Session) -> str:
    async with open_semantic_kernel_service() as service:
        plugins = [CodeInterpreterPlugin(interpreter)]
        agent = ChatCompletionAgent(service=service, instructions=INSTRUCTIONS, plugins=plugins)
        thread = ChatHistoryAgentThread(thread_id=session.key)
        replies = agent.invoke(QUESTION, thread=thread, on_intermediate_message=show)
        with interpreter.use_session(thread.id):
            return "".join([str(reply.message) async for reply in replies])


if __name__ == "__main__":
    main("semantic-kernel", answer)

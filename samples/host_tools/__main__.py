"""Compare tools that the model calls with tools that code calls: `python -m samples.host_tools`.

The scripted model makes the comparison repeatable, and needs no key. It calls one tool in a turn. A
model that calls several in a turn takes fewer turns, but it reads the same records.
"""

import asyncio
import json

from cci_plugins import CodeInterpreter
from cci_plugins.testing import ScriptedModel
from samples.host_tools.agents import AGENTS
from samples.host_tools.task import WITH_CODE, WITHOUT_CODE


async def main() -> None:
    print("| framework | tools called by | model turns | characters the model reads | answer |")
    print("|---|---|---:|---:|---|")
    async with CodeInterpreter.from_env() as interpreter:
        for name, ask in AGENTS.items():
            for caller, script in (("the model", WITHOUT_CODE), ("its code", WITH_CODE)):
                with ScriptedModel(script) as model:
                    answer = await ask(model.url, interpreter if script is WITH_CODE else None)
                read = sum(len(json.dumps(body)) for _, body in model.requests)
                turns = len(model.requests)
                print(f"| {name} | {caller} | {turns} | {read:,} | {answer} |", flush=True)


asyncio.run(main())

"""A long run: start it, look at its progress, and wait for its end.

It runs on this machine. Against a server of yours, start `cci serve` and export what it prints.
"""

import asyncio

from cci_plugins import BackgroundRun, CodeInterpreter

SIMULATE = """
import random, time
random.seed(7)
inside = 0
for part in range(1, 6):
    inside += sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(50_000))
    print(f"{part} of 5: pi is about {4 * inside / (part * 50_000):.2f}", flush=True)
    time.sleep(0.4)  # stands for an hour of work
round(4 * inside / 250_000, 2)
"""


async def follow(run: BackgroundRun) -> None:
    """Print what the code prints, while it runs."""
    seen = 0
    while run.status == "running":
        await run.wait(timeout=0.5)  # or do something else
        part = run.output(since=seen)
        print(part.text, end="", flush=True)
        seen = part.end


async def main() -> None:
    """Run the simulation, and stop one that takes too long."""
    async with CodeInterpreter.from_env() as interpreter:
        run = await interpreter.start_code(SIMULATE, timeout=3600)
        await follow(run)
        execution = (await run.wait()).raise_for_error()
        print("pi is", execution.text)
        endless = await interpreter.start_code("while True: pass")
        print("cancelled:", await endless.cancel())


asyncio.run(main())

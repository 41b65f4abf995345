"""The chat on this machine: `python -m samples.fastapi_chat [port]`."""

import sys

import uvicorn

from samples.analysis.task import SCRIPT
from samples.fastapi_chat.app import app
from samples.models import serve_model

if __name__ == "__main__":
    with serve_model(SCRIPT) as description:
        print("model:", description, flush=True)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8000)

"""The console's page: what a server's sessions ran, as plain HTML without scripts.

- `html.py` builds elements. It escapes all text that it did not build itself.
- `page.py` puts a frame around a page, with its style and its content security policy.
- `runs.py` shows runs, `sessions.py` shows sessions, `demo.py` writes a file without a server.
- `gate.py` lets browsers in that signed in, and `routes.py` answers them.

Everything that a session can choose is hostile: code, output, names of files and of sessions.
"""

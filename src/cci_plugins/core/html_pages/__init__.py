"""Pages for people, as plain HTML without scripts, that show runs of code.

- `elements.py` builds elements. It escapes all text that it did not build itself.
- `page.py` puts a frame around a page, with its style and its content security policy.
- `runs.py` shows runs, and `story.py` a file with what agents did.

Everything that a session can choose is hostile: code, output, names of files and of sessions.
"""

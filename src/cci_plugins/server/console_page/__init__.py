"""The console's page `/sessions`: which sessions live, what each ran, and a button to end one.

`gate.py` lets browsers in that signed in, `routes.py` answers them, and `sessions.py` builds the
pages from `core.html_pages`, which makes harmless what comes from sessions.
"""

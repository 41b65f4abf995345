"""What an application holds: interpreter, session, its files, and what comes out of them."""

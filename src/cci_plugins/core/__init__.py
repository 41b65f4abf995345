"""The objects an application holds: the interpreter, its sessions and their files."""

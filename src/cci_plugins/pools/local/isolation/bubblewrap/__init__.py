"""The `bwrap` backend: bubblewrap's namespaces, the strongest isolation."""

"""The isolation backend that uses bubblewrap."""

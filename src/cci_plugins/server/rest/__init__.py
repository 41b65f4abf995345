"""The REST API of Azure session pools over any pool."""

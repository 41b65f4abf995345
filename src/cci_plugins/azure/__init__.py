"""Azure once for everybody: credentials, Resource Manager, failures, API versions."""

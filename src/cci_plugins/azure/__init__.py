"""Foundation for everything that calls Azure: sign-in, Resource Manager, errors, API versions."""

"""Session pools of Azure Container Apps, and any server with the same interface."""

"""Session pools of Azure Container Apps, and whatever speaks as they do."""

"""Agents of Semantic Kernel that share one session."""

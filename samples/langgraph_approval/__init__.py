"""A LangGraph graph that asks a person before code runs."""

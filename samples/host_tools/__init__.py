"""One question over 200 orders, with three tools that the model calls, or that its code calls."""

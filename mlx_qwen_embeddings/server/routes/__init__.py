"""The endpoints, one module for each API; limits, keys and metrics are in `middleware`."""

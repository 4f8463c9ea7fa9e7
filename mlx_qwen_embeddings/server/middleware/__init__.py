"""What happens around every request: logs, keys, limits and disconnects; endpoints are in `routes`."""

"""What wraps every request: logs and metrics, API keys, limits and disconnects; the endpoints are in `routes`."""

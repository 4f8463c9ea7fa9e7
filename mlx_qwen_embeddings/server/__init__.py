"""The HTTP server: OpenAI's embedding API, and a few simpler ones, in front of the shared engines."""

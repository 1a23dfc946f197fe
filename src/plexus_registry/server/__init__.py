"""The port: listener, HTTP, access policy, TLS, limits, WebSockets, pages, shutdown."""

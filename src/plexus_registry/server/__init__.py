"""The port: connections, HTTP, access, WebSockets."""

"""The ways into chatport: HTTP, the command line, and what puts the parts together."""

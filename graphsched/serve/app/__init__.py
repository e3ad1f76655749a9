"""The application of a server: all endpoints of all interfaces."""

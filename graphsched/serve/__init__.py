"""A server: requests of many clients as sequences of one engine, over HTTP."""

"""Reference hypervisors: clients of the exit protocol, each in a process of its own."""

"""The control socket: one table of commands, served as varlink (varlink.org)."""

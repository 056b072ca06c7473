"""From an exit to its completion; knows machines and x86, and no protocol."""

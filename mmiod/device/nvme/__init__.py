"""An NVM Express 1.4 controller's vocabulary: queues, commands, structures.

A host writes commands into submission queues and rings doorbells; a controller fetches
them, moves their data by PRPs and posts completions.  All of it but the moves is plain
state: `Session` has the queues, and the commands from fetching to completion.
"""

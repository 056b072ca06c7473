"""`mmioctl`: look at a running mmiod, by its control socket.  Imports the standard library only."""

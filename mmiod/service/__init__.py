"""What a service owes its manager: notifications, passed sockets, a log it can read."""

"""What mmiod shows of itself: `mmiod demo`, `mmiod demo-reload`, `mmiod demo-linux`."""

"""Device plugins: finding and loading them."""

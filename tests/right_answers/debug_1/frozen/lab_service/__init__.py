"""What memory_debug is made of."""

"""RightCall."""

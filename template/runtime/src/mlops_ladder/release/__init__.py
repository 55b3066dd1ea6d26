"""What judges a version and brings it, by approval, to an environment."""

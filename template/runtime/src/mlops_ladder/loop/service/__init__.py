"""What the loop adds to the service."""

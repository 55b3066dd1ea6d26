"""What reads, checks, splits, versions and describes rows."""

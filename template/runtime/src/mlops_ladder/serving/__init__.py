"""What answers: the service, its keys and limits, and scores for files."""

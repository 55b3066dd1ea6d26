"""What trains, tunes, tracks and registers models."""

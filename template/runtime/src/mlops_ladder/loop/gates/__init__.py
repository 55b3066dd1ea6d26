"""The gates of this layer, a module each."""

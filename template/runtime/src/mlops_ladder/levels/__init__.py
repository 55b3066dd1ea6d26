"""One file a level: what it registers, by name. A level that is not here yet is one to climb to."""

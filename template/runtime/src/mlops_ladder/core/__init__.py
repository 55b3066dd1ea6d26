"""What every command stands on: the project, its settings, levels, errors and files."""

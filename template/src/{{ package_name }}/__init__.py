"""data.py, features.py and model.py are yours; ops/ is the template's."""

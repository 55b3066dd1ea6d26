"""Yours: data.py, features.py, model.py and what a level adds beside them. What runs them stands in runtime/."""

"""What watches, learns from answers and retrains."""

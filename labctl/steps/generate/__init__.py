"""Sample outputs, and questions with known answers."""

"""What a lab is about: its settings, folder, model and text."""

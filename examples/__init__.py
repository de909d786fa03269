"""What a newcomer can run at once: sample images, a sample backbone and its recipe, the demo."""

"""The factorial study: which properties of a world, and which finetuning, open or close the effect."""

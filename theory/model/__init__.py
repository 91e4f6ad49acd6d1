"""The toy transformer in its two parametrisations, and what finetuning trains of each."""

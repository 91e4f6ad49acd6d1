"""What makes the simulator fast: sampling, the training loop, batches of worlds, an integrator of stiff flows."""

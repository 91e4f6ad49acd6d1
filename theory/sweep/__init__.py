"""Sweeps over whole regions of the parameters: resumable, shared by several processes, on a cluster too."""

"""Worlds put into words, for models that we pretrain: names, templates, exposure, the pretraining text."""

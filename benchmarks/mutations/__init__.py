"""Deliberate errors, one at a time: which row of `verify` notices each, and which test."""

"""Everything that knows a language model's insides: tokens, generation, attention, training."""

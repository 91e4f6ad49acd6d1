"""The deep toy: the theory's worlds through small transformers with MLPs, trained by Adam."""

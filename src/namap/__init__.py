"""namap: map images of one domain onto another without pairs and without adversarial training of the mapping."""

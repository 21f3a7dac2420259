"""One thin module per DVC stage: read inputs, call the nouns, write outputs atomically."""

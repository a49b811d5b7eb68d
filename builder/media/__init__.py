"""What lies below decoding: containers, counts, how a video wants to be shown."""

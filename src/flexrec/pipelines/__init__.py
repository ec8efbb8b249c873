"""What happens and in which order. The library says how, the configuration says with what."""

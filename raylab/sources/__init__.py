"""Where pairs come from, by URI."""

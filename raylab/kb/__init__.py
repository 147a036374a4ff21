"""Entities: how a knowledge base is built, opened and asked."""

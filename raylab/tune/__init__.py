"""Sweeps: many training runs that differ in some fields, under Ray Tune."""

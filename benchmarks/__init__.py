"""Measurements of speed, memory and quality; nothing that the course imports."""

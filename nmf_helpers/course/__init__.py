"""The course wing: exercises, starting, and the command line's work."""

"""Who is on which side, and the proof that nothing leaks. Pure functions, no files."""

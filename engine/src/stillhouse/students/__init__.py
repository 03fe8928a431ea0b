"""What a finished run gave: measured, shown, exported. Imports: runs and below."""

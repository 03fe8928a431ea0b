"""What is installed, in which order it runs. Imports: contract and below."""

"""What is there, what is missing or damaged, and what each gap blocks. Standard library only."""

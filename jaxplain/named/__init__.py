"""Values by name inside a program: where they are, read, replaced, explained."""

"""Identity: which memory, turn or edge a row is, whatever its id."""

"""The rules: pure functions and records, without input, output or clock."""

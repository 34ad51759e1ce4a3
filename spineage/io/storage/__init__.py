"""The workspace by URI: tables, arrays and pointers, whole or not at all."""

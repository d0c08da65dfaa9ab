"""The training coordinator: a pure state machine, its journal, and the interpreter that does its I/O."""

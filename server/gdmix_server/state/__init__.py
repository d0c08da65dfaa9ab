"""The coordinator's heart: a pure state machine. Events in, instructions out; no I/O, no clock, no threads.

`machine.StateMachine` is the only entry; `events`, `instructions` and `model` are the words it speaks in.
"""

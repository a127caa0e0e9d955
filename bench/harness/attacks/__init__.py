"""Attacks on a swarm, one module each, for `python -m bench.attacks` and for tests/attacks.

The rule: an attack is `async def attack(target: Target, ...) -> None` in a module here that has its name; what has no
default is none of its parameters. `python -m bench.attacks NAME` finds it by the name of its module, and a test imports
it, with `functools.partial` where it wants other numbers. It goes on until it is cancelled, lets the event loop turn
(honest clients run in the same one), and leaves nothing open behind it. What it draws, it draws from a seed.
"""

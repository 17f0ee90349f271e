"""Private and undocumented interfaces of Numba, each behind one function with a test of its own.

A new release of Numba may change any of them, so ``setup.cfg`` bounds its version. Building IR with ``llvmlite.ir`` is
public and stays in the modules that do it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def redirect_calls(dispatcher: Any, choose: Callable[[Sequence[Any]], Any]) -> None:
    """Make compiled code that calls ``dispatcher`` call the dispatcher that ``choose`` returns for the argument types.

    The choice is made when the caller is compiled and costs nothing at run time. Unlike an ``overload``, both functions
    keep their signatures, annotations and files in the cache. All must have the same parameters.
    """
    own_template, own_overload = dispatcher.get_call_template, dispatcher.get_overload

    def get_call_template(args: Sequence[Any], kws: dict[str, Any]) -> Any:
        chosen = choose(args)
        return own_template(args, kws) if chosen is dispatcher else chosen.get_call_template(args, kws)

    def get_overload(signature: Any) -> Any:
        chosen = choose(signature)  # Numba gives the argument types alone
        return own_overload(signature) if chosen is dispatcher else chosen.get_overload(signature)

    dispatcher.get_call_template, dispatcher.get_overload = get_call_template, get_overload

"""coremltools' own tests, run unmodified from the installed wheel, with predictions answered by the interpreter.

Off macOS coremltools lacks one part, the extension module ``libcoremlpython``, which hands a saved package to
Core ML; its tests then compare nothing. ``binding`` is that module over again with ``lvexport.validation.mil``
behind it, ``mac`` answers the tests' questions about the machine, and ``plugin`` makes pytest do both and keep a
record of each case. ``run`` spreads the cases over processes and ``report`` counts what they recorded.
"""
